"""Passes of a model over the pool: a reward model's scores, a decoder's vectors. Part by part, resumable.

Beside each part of the pool stands one of the pass with its rows in the same order, so that no join is needed and no more
than a part is held in memory. A killed pass goes on with the first part that it lacks.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from rich.console import Console

from skyrm_jax.curate.gold import described
from skyrm_jax.curate.labelling import read_attributes
from skyrm_jax.curate.pair import SCHEMA, Pair
from skyrm_jax.errors import UserError
from skyrm_jax.report.files import whole
from skyrm_jax.report.progress import progress

if TYPE_CHECKING:
    from skyrm_jax.embedder import Embedder
    from skyrm_jax.scorer import Scorer

SCORES = pa.schema([("id", pa.string()), ("chosen", pa.float32()), ("rejected", pa.float32())])

CHUNK = 4096
"""Pairs in memory at a time."""


def parts(folder: Path, some: bool = True) -> list[Path]:
    """The parts of a table, in order. Raises UserError if there is none, where there must be `some`."""
    found = sorted(folder.glob("part-*.parquet"))
    if some and not found:
        raise UserError(f"{folder}: there is nothing in it; run the step that makes it, or the whole curation")
    return found


def is_whole(folder: Path, of: Path) -> bool:
    """Whether a folder holds a part for each one of the table `of`."""
    return all((folder / part.name).is_file() for part in parts(of))


def rows(paths: Sequence[Path]) -> int:
    """In all of these parquet files."""
    return sum(pq.ParquetFile(path).metadata.num_rows for path in paths)


def read_pairs(path: Path) -> Iterator[list[Pair]]:
    """The pairs of a part, in order, some at a time."""
    for batch in pq.ParquetFile(path).iter_batches(CHUNK, columns=SCHEMA.names):
        yield [Pair.of_row(row) for row in batch.to_pylist()]


def all_pairs(folder: Path, some: bool = True) -> list[Pair]:
    """The pairs of all parts of a table, in order."""
    return [pair for part in parts(folder, some) for chunk in read_pairs(part) for pair in chunk]


def score(load: Callable[[], "Scorer"], pool: Path, out: Path, label: str, console: Console) -> None:
    """The rewards of every pair of `pool` to parts of `out` (SCORES); the model is loaded only if one is missing."""
    todo = [path for path in parts(pool) if not (out / path.name).is_file()]
    if not todo:
        return
    scorer = load()
    with progress(console, label, rows(todo)) as advance:
        for path in todo:
            with whole(out / path.name) as temporary, pq.ParquetWriter(temporary, SCORES) as file:
                for chunk in read_pairs(path):
                    rewards = np.stack(scorer.score([pair.comparison() for pair in chunk], advance))
                    columns = [pa.array([pair.id for pair in chunk]), rewards[:, 0], rewards[:, 1]]
                    file.write_table(pa.table(columns, schema=SCORES))


def embed(embedder: "Embedder", pool: Path, attributes: Path | None, out: Path, label: str, console: Console) -> None:
    """The vectors of every pair of `pool` to .npy files in `out`, float16, a row each; see `gold.described`.

    `attributes` holds those of the pairs, part by part; without, the vectors are of conversations alone.
    """
    todo = [path for path in parts(pool) if not (out / f"{path.stem}.npy").is_file()]
    with progress(console, label, rows(todo)) as advance:
        for path in todo:
            known = {} if attributes is None else read_attributes(attributes / path.name)
            made = [
                embedder.embed((described(pair, known.get(pair.id)) for pair in chunk), advance).astype(np.float16)
                for chunk in read_pairs(path)
            ]
            with whole(out / f"{path.stem}.npy") as temporary:
                np.save(temporary, np.concatenate(made))


class Vectors:
    """The vectors that `embed` made, as one array of rows that are read from disk when they are sliced."""

    def __init__(self, folder: Path, pool: Sequence[Path]) -> None:
        self._parts = [np.load(folder / f"{path.stem}.npy", mmap_mode="r") for path in pool]
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.shape = (int(self._ends[-1]), self._parts[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Float[np.ndarray, "n D"]:
        begin, end, _ = rows.indices(len(self))
        pieces = []
        for part, last in zip(self._parts, self._ends.tolist(), strict=True):
            first = last - len(part)
            pieces.append(part[max(begin - first, 0) : max(end - first, 0)])
        return np.concatenate(pieces)


def take(pool: Path, numbers: Sequence[int]) -> list[Pair]:
    """The pairs of these rows of the pool, which ascend."""
    taken: list[Pair] = []
    first, wanted = 0, np.asarray(numbers, np.int64)
    for path in parts(pool):
        count = rows([path])
        here = wanted[(wanted >= first) & (wanted < first + count)] - first
        if len(here):
            table = pq.read_table(path, columns=SCHEMA.names).take(pa.array(here))
            taken += [Pair.of_row(row) for row in table.to_pylist()]
        first += count
    return taken


def p_of(scores: Path) -> Float[np.ndarray, "n"]:
    """sigmoid(r_chosen - r_rejected) of the rows of one part of scores, in float64."""
    table = pq.read_table(scores, columns=["chosen", "rejected"])
    margins = table["chosen"].to_numpy().astype(np.float64) - table["rejected"].to_numpy()
    return sigmoid(margins)


def sigmoid(margins: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Without overflow for any margin; exactly 0.5 for a tie, and 1 only where float64 has nothing between."""
    from scipy.special import expit

    values: np.ndarray = expit(np.asarray(margins, np.float64))
    return values
