"""Passes over a pool in parts: rows in order, slices across parts, and only what is missing is made."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from skyrm_jax.comparison import Comparison, Message
from skyrm_jax.curate import passes
from skyrm_jax.curate.pair import SCHEMA, Pair
from skyrm_jax.errors import UserError


def pair(number: int) -> Pair:
    return Pair.of([Message("user", f"q{number}")], [Message("assistant", "a" * number)], [Message("assistant", "no")])


def write_pool(folder: Path, sizes: list[int]) -> list[Pair]:
    folder.mkdir()
    pairs = [pair(number) for number in range(1, sum(sizes) + 1)]
    first = 0
    for number, size in enumerate(sizes):
        rows = [one.row() for one in pairs[first : first + size]]
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / f"part-{number:05d}.parquet")
        first += size
    return pairs


class Counting:
    """A scorer whose rewards are the lengths of the responses."""

    def __init__(self) -> None:
        self.scored = 0

    def score(self, comparisons: list[Comparison], progress: Any) -> list[np.ndarray]:
        self.scored += len(comparisons)
        progress(len(comparisons))
        return [np.array([len(r[-1].content) for r in c.responses], np.float32) for c in comparisons]


def test_scores_stand_beside_their_pairs_and_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "CHUNK", 2)
    pairs = write_pool(tmp_path / "pool", [3, 2])
    scorer = Counting()
    run = lambda: passes.score(lambda: scorer, tmp_path / "pool", tmp_path / "out", "x", Console(quiet=True))  # type: ignore[arg-type, return-value] # noqa: E731
    run()
    tables = [pq.read_table(path) for path in passes.parts(tmp_path / "out")]
    assert [len(table) for table in tables] == [3, 2]
    rows = pa.concat_tables(tables)
    assert rows["id"].to_pylist() == [one.id for one in pairs]
    assert rows["chosen"].to_pylist() == [1, 2, 3, 4, 5] and set(rows["rejected"].to_pylist()) == {2}
    p = passes.p_of(tmp_path / "out" / "part-00000.parquet")
    np.testing.assert_allclose(p, 1 / (1 + np.exp([1.0, 0.0, -1.0])))
    (tmp_path / "out" / "part-00001.parquet").unlink()
    run()
    assert scorer.scored == 5 + 2
    run()
    assert scorer.scored == 7


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is nothing in it"):
        passes.parts(tmp_path)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_vectors_are_one_array(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("vectors")
    rows = np.arange(sum(sizes) * 3, dtype=np.float16).reshape(-1, 3)
    paths = [folder / f"part-{number:05d}.parquet" for number in range(len(sizes))]
    for path, part in zip(paths, np.split(rows, np.cumsum(sizes)[:-1]), strict=True):
        np.save(folder / f"{path.stem}.npy", part)
    vectors = passes.Vectors(folder, paths)
    begin, end = data.draw(st.integers(0, len(rows))), data.draw(st.integers(0, len(rows) + 2))
    assert (len(vectors), vectors.shape) == (len(rows), rows.shape)
    np.testing.assert_array_equal(vectors[begin:end], rows[begin:end])


@given(st.sets(st.integers(0, 8)))
def test_rows_are_taken_across_parts(tmp_path_factory: pytest.TempPathFactory, wanted: set[int]) -> None:
    folder = tmp_path_factory.mktemp("pool") / "pool"
    pairs = write_pool(folder, [4, 1, 4])
    assert passes.take(folder, sorted(wanted)) == [pairs[row] for row in sorted(wanted)]


def test_sigmoid_at_its_ends() -> None:
    np.testing.assert_array_equal(passes.sigmoid(np.array([-1e5, 0.0, 1e5])), [0.0, 0.5, 1.0])
