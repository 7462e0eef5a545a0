"""Reward files: what is written reads back, other forms are read, and a gap is never filled."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import UserError
from skyrm_jax.eval import rewards
from skyrm_jax.eval.rewards import RewardFile


def comparisons(*ids: str) -> list[Comparison]:
    return [Comparison.of("?", ["a", "b"], id=name) for name in ids]


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def test_what_is_written_reads_back_bit_for_bit(tmp_path: Path) -> None:
    # Ids that are empty or shared fall back on the place, so nothing overwrites anything.
    first, second = comparisons("x", "", "y", "y"), comparisons("x")
    values = [np.array([i + 0.1, -(i**3) / 7], np.float32) for i in range(5)]
    rewards.write(tmp_path / "r.parquet", {"one": (first, values[:4]), "two": (second, values[4:])})
    file = RewardFile(tmp_path / "r.parquet")
    for name, some, expected in (("one", first, values[:4]), ("two", second, values[4:])):
        for got, wanted in zip(file.of(name, some), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert [p.name for p in tmp_path.iterdir()] == ["r.parquet"]


def test_simple_jsonl_goes_by_id_whatever_the_order(tmp_path: Path) -> None:
    path = lines(tmp_path / "r.jsonl", {"id": 2, "rewards": [3, 4]}, "", {"id": "1", "rewards": [1, 2.5]})
    assert [r.tolist() for r in RewardFile(path).of("any", comparisons("1", "2"))] == [[1, 2.5], [3, 4]]
    path = lines(tmp_path / "r.jsonl", {"set": "other", "id": "1", "rewards": [1, 2]})
    with pytest.raises(UserError, match=r"no rewards for 1 of the 1 comparisons of any \(the first: 1\)"):
        RewardFile(path).of("any", comparisons("1"))


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([{"id": "1", "rewards": [1, 2]}, {"id": "1", "rewards": [1, 2]}], "line 2: id '1' occurs twice"),
        ([{"id": "1", "reward": 3}], "line 1: a record needs the fields id and rewards; it has id, reward"),
        ([{"id": "1", "rewards": ["x", 2]}], "line 1: field rewards must be a list of numbers"),
        ([{"id": "1", "rewards": ["1.5", 2]}], "line 1: field rewards must be a list of numbers"),
        ([{"id": "1", "rewards": [True, False]}], "line 1: field rewards must be a list of numbers"),
        (
            [{"id": "1", "rewards": [[1], [2]]}],
            r"line 1: field rewards must be a list of numbers, not \[\[1\], \[2\]\]",
        ),
        ([{"id": "1", "rewards": 3}], "line 1: field rewards must be a list of numbers, not 3"),
        ([{"id": "1", "rewards": [10**400, 2]}], "line 1: field rewards holds a number too large"),
        ([{"id": ["1"], "rewards": [1, 2]}], r"line 1: the id must be text or a whole number, not \['1'\]"),
        ([{"id": True, "rewards": [1, 2]}], "line 1: the id must be text or a whole number, not True"),
        ([{"set": ["x"], "id": "1", "rewards": [1, 2]}], "line 1: field set must be the name of a benchmark"),
        (["{"], "line 1: not JSON"),
        (["[" * 100_000], "line 1: not JSON"),
        (["[1]"], "line 1: a record must be a JSON object"),
        ([], "holds no rewards"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, records: list[Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        RewardFile(lines(tmp_path / "r.jsonl", *records))


def test_missing_files_and_broken_parquet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        RewardFile(tmp_path / "absent.parquet")
    (tmp_path / "r.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="not a readable parquet"):
        RewardFile(tmp_path / "r.parquet")


def test_rewards_of_others_keep_all_their_digits(tmp_path: Path) -> None:
    close = np.array([0.999999999, 0.999999998])
    rewards.write(tmp_path / "r.parquet", {"one": (comparisons("x"), [close])})
    np.testing.assert_array_equal(RewardFile(tmp_path / "r.parquet").of("one", comparisons("x"))[0], close)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, None], r"r\.jsonl, line 2: id '2' has a reward that is not a finite number \(\[1\.0, nan\]\)"),
        ([1, float("inf")], r"r\.jsonl, line 2: id '2' has a reward that is not a finite number"),
        ([1, 2, 3], r"r\.jsonl, line 2: id '2' has 2 responses but rewards of shape \(3,\)"),
        ([], r"r\.jsonl, line 2: id '2' has 2 responses but rewards of shape \(0,\)"),
    ],
)
def test_rewards_that_cannot_be_right_are_named_by_line(tmp_path: Path, values: Any, words: str) -> None:
    path = lines(tmp_path / "r.jsonl", {"id": "1", "rewards": [1, 2]}, {"id": "2", "rewards": values})
    with pytest.raises(UserError, match=words):
        RewardFile(path).of("any", comparisons("1", "2"))


def test_unknown_ids_are_answered_with_both_kinds(tmp_path: Path) -> None:
    path = lines(tmp_path / "r.jsonl", {"id": "mine", "rewards": [1, 2]})
    with pytest.raises(UserError, match=r"the first: theirs\).* the ids in the file are such as mine\."):
        RewardFile(path).of("any", comparisons("theirs"))


def test_an_id_with_a_set_and_without_is_one(tmp_path: Path) -> None:
    path = lines(tmp_path / "r.jsonl", {"set": "rmb", "id": "1", "rewards": [1, 2]}, {"id": "1", "rewards": [3, 4]})
    with pytest.raises(UserError, match=r"line 2: id '1' occurs twice, once with a set"):
        RewardFile(path).of("rmb", comparisons("1"))
    assert RewardFile(path).of("judgebench", comparisons("1"))[0].tolist() == [3, 4]


def test_ids_that_look_like_places_are_none(tmp_path: Path) -> None:
    some = comparisons("#1", "x", "x")
    assert rewards.keys(some) == ["#0", "#1", "#2"]
    values = [np.array([i, 0.5]) for i in range(3)]
    rewards.write(tmp_path / "r.parquet", {"one": (some, values)})
    assert [r[0] for r in RewardFile(tmp_path / "r.parquet").of("one", some)] == [0, 1, 2]


def test_rewards_are_of_their_text_whatever_it_is_called(tmp_path: Path) -> None:
    path, x = tmp_path / "r.parquet", comparisons("x")
    made = {"origin": {}, "contents": {}, "counts": {}, "computed": {}}
    rewards.write(path, {"one": (x, [np.array([1.0, 2.0])])}, made)
    labelled = Comparison.of("?", ["a", "b"], chosen=1, id="x", category="named", source="too")
    assert RewardFile(path).of("one", [labelled])[0].tolist() == [1, 2]
    without = Comparison((), ((), ()), id="x")  # of a store, which keeps no text
    assert RewardFile(path).of("one", [without])[0].tolist() == [1, 2]
    for prompt, responses in (("!", ["a", "b"]), ("?", ["b", "a"]), ("?a", ["", "b"])):
        with pytest.raises(UserError, match=r"r\.parquet, row 0: the rewards of 'x' are of another text"):
            RewardFile(path).of("one", [Comparison.of(prompt, responses, id="x")])
    # A field of that name in others' files is their own affair.
    mine = lines(tmp_path / "r.jsonl", {"id": "x", "rewards": [1, 2], "text": "of something"})
    assert RewardFile(mine).of("one", x)[0].tolist() == [1, 2]


def test_other_sets_stay_if_the_same_made_them(tmp_path: Path) -> None:
    path, x = tmp_path / "r.parquet", comparisons("x")

    def write(name: str, origin: Any, value: float) -> None:
        made = {"origin": origin, "contents": {name: "hash"}, "counts": {name: {"n": 1}}, "computed": {name: {}}}
        rewards.write(path, {name: (x, [np.array([value, 0])])}, made)

    write("one", {"by": (1, 2)}, 1)
    write("two", {"by": (1, 2)}, 2)
    write("one", {"by": (1, 2)}, 3)
    file = RewardFile(path)
    assert [file.of(name, x)[0].tolist() for name in ("one", "two")] == [[3, 0], [2, 0]]
    assert file.written is not None
    assert file.written.contents == {"one": "hash", "two": "hash"} and set(file.written.counts) == {"one", "two"}
    rewards.require_room(path, {"by": (1, 2)}, {"one": "hash", "three": "any"})
    rewards.require_room(tmp_path / "absent", {"by": 3}, {})
    with pytest.raises(
        UserError, match=r"r\.parquet: holds rewards of one that are of other data and that would be lost"
    ):
        rewards.require_room(path, {"by": (1, 2)}, {"one": "other", "two": "hash"})
    with pytest.raises(UserError, match=r"holds rewards of one, two that something else made \(its by differ\)"):
        rewards.require_room(path, {"by": 3}, {"one": "hash", "two": "hash"})
    rewards.write(path, {"one": (x, [np.zeros(2)])})
    with pytest.raises(UserError, match=r"rewards of one that something else made \(it does not say what"):
        rewards.require_room(path, {"by": 3}, {"two": "hash"})
