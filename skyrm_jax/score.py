"""`python -m skyrm_jax.score IN OUT --checkpoint x`: a file of comparisons to rewards."""

import argparse
import gzip
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from skyrm_jax.chat import Tree
from skyrm_jax.comparison import Comparison
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import Located, read_located
from skyrm_jax.errors import RecordError, UserError, run_command
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
    p.add_argument("--checkpoint", required=True, help="our checkpoint, a Hugging Face folder or a Hub id")
    scoring.add_options(p)
    return p


def main(arguments: list[str] | None = None) -> None:
    """Runs the command. Raises UserError for anything the user can mend; OUT appears whole or not at all."""
    args = parser().parse_args(arguments)
    output: Path = args.output
    if output.resolve() == Path(args.input).resolve():
        raise UserError(f"{output}: OUT is IN, which is not overwritten: give another name")
    opened = writer(output)
    quarantine = Quarantine(beside(output, ".quarantine.jsonl"), args.max_bad_share)
    records = read_located([args.input], args.form, training=False, quarantine=quarantine)
    chunk = list(islice(records, CHUNK))  # so that a wrong input is answered before the model is loaded

    console = Console()
    scorer = scoring.load_scorer(args)
    counts: Counter[str] = Counter()
    with opened as write:
        while chunk:
            written, counted = score_chunk(scorer, chunk, quarantine, console, f"from {counts['comparisons']:,}")
            counts.update(counted)
            write(written)
            chunk = list(islice(records, CHUNK))
    quarantine.check()
    facts = {**scoring.origin(scorer), **counts, "input": args.input, "bad_records": quarantine.bad}
    with whole(beside(output, ".manifest.json")) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
    print_facts(console, "Scored", {**counts, "bad_records": quarantine.bad, "dtype": args.dtype})
    console.print(f"rewards in {output}", markup=False, highlight=False, soft_wrap=True)


def score_chunk(
    scorer: "Scorer", chunk: Sequence[Located], quarantine: Quarantine, console: Console, label: str
) -> tuple[list[Row], dict[str, int]]:
    """Output rows (what names a comparison, and a reward for each of its responses) and the scorer's counts of them.

    A record that the chat template refuses goes to the quarantine.
    """
    names: list[Comparison] = []
    trees: list[Tree] = []
    for record, tree in zip(chunk, scorer.trees([record.comparison for record in chunk]), strict=True):
        if isinstance(tree, RecordError):
            quarantine.add(record.file, record.line, tree, record.raw)
        else:
            names.append(record.comparison)
            trees.append(tree)
    rewards, counts = scoring.counted(
        scorer, len(trees), console, label, lambda advance: scorer.score_trees(trees, advance)
    )
    rows = [
        {
            "id": comparison.id,
            "source": comparison.source,
            "category": comparison.category,
            # The shortest text that reads back as the same float32.
            "rewards": [float(str(np.float32(value))) for value in reward],
        }
        for comparison, reward in zip(names, rewards, strict=True)
    ]
    return rows, counts


def beside(path: Path, suffix: str) -> Path:
    """The companion file of an output."""
    return path.with_name(path.name + suffix)


def writer(path: Path) -> AbstractContextManager[Write]:
    """The writer of the form that the name of `path` asks for. Raises UserError for another name."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return write_jsonl(path)
    if path.suffix == ".parquet":
        return write_parquet(path)
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
def write_parquet(path: Path) -> Iterator[Write]:
    """Writes rows to parquet, a row group for each chunk."""
    with whole(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as stream:
        yield lambda rows: stream.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))


if __name__ == "__main__":
    sys.exit(run_command(main))
