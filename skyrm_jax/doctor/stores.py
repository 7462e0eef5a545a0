"""The check of a prepared store: every file is read and its checksum compared."""

from collections.abc import Iterator
from pathlib import Path

from skyrm_jax.data.store import Store
from skyrm_jax.doctor.findings import Finding
from skyrm_jax.errors import UserError


def is_store(place: str) -> bool:
    """Whether a local folder holds a store."""
    return Path(place, "store.json").is_file()


def examine_store(place: str) -> Iterator[Finding]:
    """What was made from what, and each damaged file."""
    try:
        store = Store.open(place)
    except UserError as error:
        yield Finding("opening it", "ill", str(error), "mend what is named; nothing else can be examined before")
        return
    totals, files = store.meta["totals"], [*store.meta["shards"], *store.meta["index"]]
    yield Finding("comparisons", "well", f"{totals['comparisons']:,}, of them {totals['held_out']:,} held out")
    faults = list(store.faults())
    for fault in faults:
        yield Finding("file", "ill", fault)
    if not faults:
        yield Finding("files", "well", f"{len(files)} of {sum(f['bytes'] for f in files):,} bytes, checksums right")
