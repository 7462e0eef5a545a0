"""`python -m skyrm_jax.score IN OUT --checkpoint x`: a file of comparisons to rewards."""

import argparse
import gzip
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import Located, read_located
from skyrm_jax.ensemble import RULES, Combine, combiner
from skyrm_jax.errors import UserError, run_command
from skyrm_jax.eval import scoring
from skyrm_jax.report.files import whole
from skyrm_jax.report.tables import print_facts

if TYPE_CHECKING:
    from skyrm_jax.scorer import Scorer

CHUNK = 4096
"""Comparisons scored, and held in memory, at a time."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("category", pa.string()),
        ("rewards", pa.list_(pa.float32())),
    ]
)
MEMBERS = pa.field("members", pa.list_(pa.list_(pa.float32())))
"""A column more, of ensembles."""

Row = dict[str, Any]
Write = Callable[[list[Row]], None]


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    p = argparse.ArgumentParser(
        prog="skyrm score",
        description="Rewards for every response of a file of comparisons (prompts with responses).",
        epilog="OUT.quarantine.jsonl takes bad records with reasons; OUT.manifest.json tells the origin.",
    )
    p.add_argument("input", metavar="IN", help="comparisons: .jsonl, .jsonl.gz, .json or .parquet")
    p.add_argument("output", metavar="OUT", type=Path, help="rewards: .jsonl, .jsonl.gz or .parquet")
    p.add_argument(
        "--checkpoint",
        required=True,
        action="append",
        help="our checkpoint, a Hugging Face folder or a Hub id; given several times, an ensemble",
    )
    rules = "; ".join(f"{name}: {text}" for name, text in RULES.items())
    p.add_argument("--ensemble", choices=RULES, help=f"how several models' rewards become one ({rules}); default mean")
    p.add_argument("--k", type=float, default=1.0, help="of mean-std (default 1)")
    scoring.add_options(p)
    return p


def main(arguments: list[str] | None = None) -> None:
    """Runs the command. Raises UserError for anything the user can mend; OUT appears whole or not at all."""
    args = parser().parse_args(arguments)
    output: Path = args.output
    if output.resolve() == Path(args.input).resolve():
        raise UserError(f"{output}: OUT is IN, which is not overwritten: give another name")
    if output.is_dir():
        raise UserError(f"{output}: is a folder: give the name of a file for OUT")
    if args.ensemble and len(args.checkpoint) == 1:
        raise UserError("--ensemble needs several models: give --checkpoint once for each")
    rule = args.ensemble or "mean"
    combine = combiner(rule, args.k)
    opened = writer(output, SCHEMA.append(MEMBERS) if len(args.checkpoint) > 1 else SCHEMA)
    scoring.require_writable(output.parent)
    quarantine = Quarantine(beside(output, ".quarantine.jsonl"), args.max_bad_share)
    records = read_located([args.input], args.form, training=False, quarantine=quarantine)
    chunk = list(islice(records, CHUNK))  # so that a wrong input is answered before the model is loaded

    console = Console()
    scorers = [scoring.load_scorer(args, source) for source in args.checkpoint]
    counts: Counter[str] = Counter()
    with opened as write:
        while chunk:
            written, counted = score_chunk(
                scorers, combine, chunk, quarantine, console, f"from {counts['comparisons']:,}"
            )
            counts.update(counted)
            write(written)
            chunk = list(islice(records, CHUNK))
        quarantine.check()  # before OUT gets its name
    facts = {**scoring.origin(scorers[0]), **counts, "input": args.input, "bad_records": quarantine.bad}
    if len(scorers) > 1:
        facts |= {"ensemble": rule, "members": [scorer.manifest for scorer in scorers]}
        if rule == "mean-std":
            facts["k"] = args.k
    with whole(beside(output, ".manifest.json")) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
    print_facts(console, "Scored", {**counts, "bad_records": quarantine.bad, "dtype": args.dtype})
    if quarantine.bad:
        console.print(
            f"records put aside, with reasons: {quarantine.path}", markup=False, highlight=False, soft_wrap=True
        )
    console.print(f"rewards in {output}", markup=False, highlight=False, soft_wrap=True)


def score_chunk(
    scorers: Sequence["Scorer"],
    combine: Combine,
    chunk: Sequence[Located],
    quarantine: Quarantine,
    console: Console,
    label: str,
) -> tuple[list[Row], dict[str, int]]:
    """Output rows (what names a comparison, and a reward for each of its responses) and the first scorer's counts.

    A record that a chat template refuses goes to the quarantine. With several scorers `rewards` are the combined
    ones, and `members` each scorer's own.
    """
    usable, trees = scoring.readable(scorers, chunk, quarantine)
    members: list[list[np.ndarray]] = []
    counts: dict[str, int] = {}
    for scorer, kept in zip(scorers, trees, strict=True):
        work = partial(scorer.score_trees, kept)
        rewards, counted = scoring.counted(scorer, len(kept), console, label, work)
        members.append(rewards)
        counts = counts or counted
    rows = []
    for number, *rewards in zip(usable, *members, strict=True):
        comparison = chunk[number].comparison
        row = {"id": comparison.id, "source": comparison.source, "category": comparison.category}
        if len(scorers) > 1:
            row |= {"rewards": plain(combine(rewards)), "members": [plain(reward) for reward in rewards]}
        else:
            row["rewards"] = plain(rewards[0])
        rows.append(row)
    return rows, counts


def plain(rewards: np.ndarray) -> list[float]:
    """Numbers whose shortest text reads back as the same float32."""
    return [float(str(np.float32(value))) for value in rewards]


def beside(path: Path, suffix: str) -> Path:
    """The companion file of an output."""
    return path.with_name(path.name + suffix)


def writer(path: Path, schema: pa.Schema) -> AbstractContextManager[Write]:
    """The writer of the form that the name of `path` asks for. Raises UserError for another name."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return write_jsonl(path)
    if path.suffix == ".parquet":
        return write_parquet(path, schema)
    raise UserError(f"{path}: the name of OUT must end in .jsonl, .jsonl.gz or .parquet")


@contextmanager
def write_jsonl(path: Path) -> Iterator[Write]:
    """Writes rows as JSON lines, gzipped if the name says so; empty names are left out."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with whole(path) as temporary, opener(temporary, "wt", encoding="utf-8") as stream:

        def write(rows: list[Row]) -> None:
            for row in rows:
                kept = {name: value for name, value in row.items() if value != ""}
                stream.write(json.dumps(kept, ensure_ascii=False) + "\n")

        yield write


@contextmanager
def write_parquet(path: Path, schema: pa.Schema) -> Iterator[Write]:
    """Writes rows to parquet, a row group for each chunk."""
    with whole(path) as temporary, pq.ParquetWriter(temporary, schema) as stream:
        yield lambda rows: stream.write_table(pa.Table.from_pylist(rows, schema=schema))


if __name__ == "__main__":
    sys.exit(run_command(main))
