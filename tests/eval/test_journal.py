"""The journal: what is scored of one set does not go with another."""

from pathlib import Path

import numpy as np

from skyrm_jax.eval.journal import Journal, together


def test_what_is_scored_of_other_sets_outlives_a_finished_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"by": 1})
    for name in ("one", "two"):
        journal.add(name, "hash", 0, [np.array([0.1, 2], np.float32)], {"n": 1}, {"batches": [(1, 2)]})
    Journal(tmp_path, {"by": 1}).finish(["one"])
    left = Journal(tmp_path, {"by": 1})
    assert left.of("one", "hash", ["x"]).rewards == []
    done = left.of("two", "hash", ["x"])
    np.testing.assert_array_equal(done.rewards[0], np.array([0.1, 2], np.float32))
    assert done.counts == {"n": 1} and done.computed == {"batches": [[1, 2]]}
    left.finish(["one", "two"])
    assert list(tmp_path.iterdir()) == []


def test_parts_are_told_together() -> None:
    one, two = {"data": 1}, {"data": 2}
    assert together([]) == together([{}]) == {}
    assert together([{"mesh": one, "batches": [(8, 9)]}, {"mesh": one, "batches": [[1, 2], [8, 9]]}]) == {
        "mesh": one,
        "batches": [[1, 2], [8, 9]],
    }
    assert together([{"mesh": one}, together([{"mesh": two}, {"mesh": one}])])["mesh"] == [one, two]
