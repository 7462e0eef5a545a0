"""Pairs whose prompt shares n-grams of words with a benchmark or a held-out file, after the Skywork-Reward-V2 paper.

What is compared is the first turn: the first user message. System messages are left out on both sides, because many unlike
prompts share one, and so are later turns, as in the paper. A set's n-grams are those of all its prompts; a pair is
contaminated by a set with which its prompt shares at least `overlap` different ones. Prompts of fewer than n words have
none: they are contaminated if all their words, in order, are those of a prompt of the set.
"""

import json
import os
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skyrm_jax.comparison import Comparison, Message
from skyrm_jax.curate.engine import durable, load_daft, read
from skyrm_jax.curate.ngrams import NgramIndex
from skyrm_jax.data.files import Source
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.readers import chunks
from skyrm_jax.data.sources import comparisons_of
from skyrm_jax.eval.benchmarks import BENCHMARKS, select

if TYPE_CHECKING:
    from daft import DataFrame

BATCH = 4096
"""Pairs looked at together."""


def first_turn(prompt: Iterable[Message]) -> str:
    """The first user message; empty without one."""
    return next((message.content for message in prompt if message.role == "user"), "")


def first_turns(prompts: pa.ListArray) -> list[str]:
    """`first_turn` of every prompt of a column of messages."""
    messages = prompts.flatten()
    users = np.flatnonzero(pc.equal(messages.field("role"), "user").to_numpy(zero_copy_only=False))
    lengths = pc.list_value_length(prompts).to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths)
    which = np.searchsorted(users, ends - lengths)
    found = np.append(users, len(messages))[which]
    texts: list[str] = pc.take(messages.field("content"), pa.array(found, mask=found >= ends)).to_pylist()
    return [text or "" for text in texts]


def benchmark_sets(data: Path) -> tuple[dict[str, list[str]], list[str]]:
    """(the first turns of each benchmark in the folder `data`, the names of those that are not in it).

    Raises:
        UserError: there is none, or a file of one is not in order.
    """
    found, missing = select(["all"], data)
    return {name: _turns(BENCHMARKS[name].load(data)) for name in found}, missing


def _turns(comparisons: Iterable[Comparison]) -> list[str]:
    """Each first turn once: several records of a benchmark may ask the same."""
    return list(dict.fromkeys(first_turn(one.prompt) for one in comparisons))


def held_out_sets(sources: Sequence[Source], form: str) -> dict[str, list[str]]:
    """The first turns of each file of comparisons, by its label.

    Raises:
        UserError: a file cannot be read or holds a bad record: what cannot be read cannot be kept out.
    """
    return {source.label: _turns(_comparisons(source, form)) for source in sources}


def _comparisons(source: Source, form: str) -> Iterator[Comparison]:
    quarantine = Quarantine(None, 0.0)
    for chunk in chunks(source):
        for located in comparisons_of(chunk, source.name, source.short, form, False, quarantine):
            yield located.comparison
    quarantine.finish(source.name)


def write_index(path: Path, index: NgramIndex) -> None:
    """Writes what `contaminated` reads."""
    with durable(path) as temporary, temporary.open("wb") as file:
        pickle.dump(index, file)


@lru_cache(1)
def read_index(path: str, _changed: int) -> NgramIndex:
    """What `write_index` wrote, once for each process."""
    with Path(path).open("rb") as file:
        index: NgramIndex = pickle.load(file)
    return index


def contaminated(parts: Sequence[Path], index: Path, overlap: int, processes: bool) -> "DataFrame":
    """The prompts of parts of pairs that are contaminated: `prompt_key` and `sets`, a JSON list of `ngrams.Hit`.

    Each prompt stands there once.

    Args:
        parts: parquet files with the columns `prompt_key` and `prompt`.
        index: file of `write_index`, which every node can read.
        overlap: how many different n-grams must be shared.
        processes: whether it is worth a process for every core.
    """
    daft = load_daft()
    name, changed = str(index), os.stat(index).st_mtime_ns

    @daft.func.batch(return_dtype=daft.DataType.string(), batch_size=BATCH, use_process=processes)  # type: ignore[untyped-decorator]
    def sets(prompts: Any) -> pa.Array:
        return pa.array(_hits(first_turns(prompts.to_arrow()), read_index(name, changed), overlap), pa.string())

    frame = read(parts).select("prompt_key", sets(daft.col("prompt")).alias("sets"))
    found: DataFrame = frame.where(frame["sets"].not_null()).distinct()
    return found


def _hits(texts: Sequence[str], index: NgramIndex, overlap: int) -> list[str | None]:
    """For each text its hits as JSON, None without any. Texts that stand there several times are looked at once."""
    once = dict.fromkeys(texts)
    found = dict(zip(once, index.find(list(once), overlap), strict=True))
    return [
        json.dumps([asdict(hit) for hit in found[text]], ensure_ascii=False) if found[text] else None for text in texts
    ]


def sets_of(index: NgramIndex, missing: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, what is known of it) of each set and of each benchmark that is missing, for a report."""
    for name, (prompts, ngrams, short) in zip(index.sets, index.counts, strict=True):
        yield name, {"found": True, "prompts": prompts, "ngrams": ngrams, "short_prompts": short}
    for name in missing:
        yield name, {"found": False, "prompts": 0, "ngrams": 0, "short_prompts": 0}
