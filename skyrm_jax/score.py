"""`python -m skyrm_jax.score IN OUT --checkpoint x`: a file of comparisons to rewards."""

import argparse
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from skyrm_jax.comparison import Comparison
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import read_comparisons
from skyrm_jax.errors import UserError, run_command
from skyrm_jax.eval.manifest import versions
from skyrm_jax.report.files import whole
from skyrm_jax.report.tables import print_facts

CHUNK = 4096  # comparisons scored, and held in memory, at a time
SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("category", pa.string()),
        ("rewards", pa.list_(pa.float32())),
    ]
)


class Writer(Protocol):
    """Takes the rows of the output, chunk by chunk."""

    def __call__(self, rows: list[dict[str, Any]]) -> None: ...


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    p = argparse.ArgumentParser(
        prog="skyrm score",
        description="Rewards for every response of a file of comparisons (prompt and responses).",
        epilog="OUT.quarantine.jsonl takes bad records, with reasons; OUT.manifest.json says what made the rewards.",
    )
    p.add_argument("input", metavar="IN", help="comparisons: .jsonl, .jsonl.gz, .json or .parquet")
    p.add_argument("output", metavar="OUT", type=Path, help="rewards: .jsonl, .jsonl.gz or .parquet")
    p.add_argument("--checkpoint", required=True, help="our checkpoint, a Hugging Face directory or a Hub id")
    p.add_argument("--form", default="auto", help="shape of the records (default: found out)")
    p.add_argument("--max-tokens", type=int, default=16_384, help="longest conversation (default 16384)")
    p.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the matrices")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Runs the command. Raises UserError for anything the user can mend; OUT appears whole or not at all."""
    args = parser().parse_args(arguments)
    output: Path = args.output
    if output.resolve() == Path(args.input).resolve():
        raise UserError(f"{output}: OUT is IN: give another name, the input is not overwritten")
    open_writer = writer_for(output)
    quarantine = Quarantine(beside(output, ".quarantine.jsonl"))
    comparisons = read_comparisons([args.input], form=args.form, training=False, quarantine=quarantine)
    first = list(islice(comparisons, CHUNK))  # so that a wrong input is answered before the model is loaded
    if not first:
        raise UserError(f"{args.input}: no comparison in it")

    from skyrm_jax.scorer import Scorer  # imports JAX, which the checks above do not need

    scorer = Scorer.load(args.checkpoint, max_tokens=args.max_tokens, dtype=args.dtype)
    counts: Counter[str] = Counter()
    with open_writer(output) as write:
        for chunk in chunks(first, comparisons):
            rewards = scorer.score(chunk)
            write(rows(chunk, rewards, counts["comparisons"]))
            counts.update(scorer.counts)
            counts.update(comparisons=len(chunk), responses=sum(len(c.responses) for c in chunk))
    facts = {"input": args.input, "counts": dict(counts), **scorer.manifest, "versions": versions()}
    with whole(beside(output, ".manifest.json")) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
    console = Console()
    print_facts(console, "Scored", {**counts, "dtype": args.dtype})
    console.print(f"rewards in {output}", markup=False, highlight=False, soft_wrap=True)


def chunks(first: list[Comparison], rest: Iterator[Comparison]) -> Iterator[list[Comparison]]:
    """`first`, then the rest by CHUNK."""
    chunk = first
    while chunk:
        yield chunk
        chunk = list(islice(rest, CHUNK))


def rows(
    comparisons: Iterable[Comparison], rewards: Iterable[np.ndarray], start: int
) -> list[dict[str, Any]]:
    """Output rows: what names the comparison, its place among those scored, a reward for each response."""
    return [
        {
            "index": start + i,
            "id": comparison.id,
            "source": comparison.source,
            "category": comparison.category,
            # The shortest text that reads back as the same float32.
            "rewards": [float(str(np.float32(value))) for value in reward],
        }
        for i, (comparison, reward) in enumerate(zip(comparisons, rewards, strict=True))
    ]


def beside(path: Path, suffix: str) -> Path:
    """The companion file of an output."""
    return path.with_name(path.name + suffix)


def writer_for(path: Path) -> Any:
    """The writer of the form that the name of `path` asks for. Raises UserError for another name."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return write_jsonl
    if path.suffix == ".parquet":
        return write_parquet
    raise UserError(f"{path}: the name of OUT must end in .jsonl, .jsonl.gz or .parquet")


@contextmanager
def write_jsonl(path: Path) -> Iterator[Writer]:
    """Writes rows as JSON lines, empty names left out."""
    with whole(path) as temporary:
        stream: IO[str]
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(temporary, "wt", encoding="utf-8") as stream:

            def write(rows: list[dict[str, Any]]) -> None:
                for row in rows:
                    kept = {name: value for name, value in row.items() if value != ""}
                    stream.write(json.dumps(kept, ensure_ascii=False) + "\n")

            yield write


@contextmanager
def write_parquet(path: Path) -> Iterator[Writer]:
    """Writes rows to parquet, a row group for each chunk."""
    with whole(path) as temporary, pq.ParquetWriter(temporary, SCHEMA) as stream:
        yield lambda rows: stream.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))


if __name__ == "__main__":
    sys.exit(run_command(main))
