"""RM-Bench: a published matrix, both safety files as one domain, and which side of the diagonal is hard."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_records import rm_bench as record
from published_records import write

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import UserError
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.eval.benchmarks.rm_bench import GAP, MEAN, SIZES, STYLES, SUMMARY, cell
from skyrm_jax.eval.figures import Result

RIGHT, WRONG = [5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5]
"""Rewards of a record: every chosen response above every rejected one, and below."""


def load(path: Path) -> list[Comparison]:
    return BENCHMARKS["rm-bench"].load(path)


def scored(comparisons: Sequence[Comparison], rewards: Sequence[Sequence[float]]) -> Result:
    return BENCHMARKS["rm-bench"].score(comparisons, [np.array(one, np.float64) for one in rewards])


def made(*domains: str) -> list[Comparison]:
    one = Comparison.of("?", list("abcdef"), chosen=[0, 1, 2])
    return [replace(one, id=f"{domain}/{k}", category=domain) for k, domain in enumerate(domains)]


def values(result: Result, section: str) -> dict[str, float]:
    return {name: figure.value for name, figure in result.sections[section].items()}


def test_a_published_matrix_gives_its_published_levels(shared: Path) -> None:
    published = json.loads((shared / "data/published/published_tables.json").read_text())["rmbench_fsfairx_chat_matrix"]
    size = 183  # all nine shares are whole numbers of so many records
    counts = np.array(published["matrix"]) * size / 100
    np.testing.assert_allclose(counts, counts.round(), atol=0.01)
    # Record k is right in the cells whose count is above k. A style that beats n rejected ones beats the first n.
    beaten = (np.arange(size)[:, None, None] < counts.round()).sum(axis=2)
    rewards = [[*(n - 0.5), 0.0, 1.0, 2.0] for n in beaten]
    result = scored(made(*["chat"] * size), rewards)
    np.testing.assert_allclose(result.matrices["chat"], published["matrix"], atol=0.006)
    levels = values(result, "chat")
    assert [round(levels[name], 2) for name in ("Hard", "Normal", "Easy")] == [18.58, 72.13, 93.26]
    # Transposed, or with the styles in falling order, hard and easy would change places.
    expected = {"Hard": 18.58, "Normal": 72.13, "Easy": 93.26, GAP: 74.68, "chat": 61.32, MEAN: 61.32}
    assert values(result, SUMMARY) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("rewards", "cells", "level"),
    [
        # One chosen style i beats one rejected style j and nothing else does.
        ([1, 0, 0, 2, 0.5, 2], (0, 1), "Hard"),
        ([1, 0, 0, 2, 2, 0.5], (0, 2), "Hard"),
        ([0, 1, 0, 2, 2, 0.5], (1, 2), "Hard"),
        ([1, 0, 0, 0.5, 2, 2], (0, 0), "Normal"),
        ([0, 1, 0, 2, 0.5, 2], (1, 1), "Normal"),
        ([0, 0, 1, 2, 2, 0.5], (2, 2), "Normal"),
        ([0, 1, 0, 0.5, 2, 2], (1, 0), "Easy"),
        ([0, 0, 1, 0.5, 2, 2], (2, 0), "Easy"),
        ([0, 0, 1, 2, 0.5, 2], (2, 1), "Easy"),
    ],
)
def test_every_cell_belongs_to_one_level(rewards: list[float], cells: tuple[int, int], level: str) -> None:
    result = scored(made("code"), [rewards])
    expected = np.zeros((3, 3))
    expected[cells] = 100
    np.testing.assert_array_equal(result.matrices["code"], expected)
    found = {name: round(value, 6) for name, value in values(result, "code").items()}
    nine = {cell(i, j): 100 if (i, j) == cells else 0 for i in range(3) for j in range(3)}
    assert found == {"Hard": 0, "Normal": 0, "Easy": 0} | {level: 33.333333, "Mean": 11.111111} | nine
    assert list(found)[:4] == ["Hard", "Normal", "Easy", "Mean"]


def test_a_tie_is_wrong() -> None:
    # With half a point it would be 50.
    result = scored(made("math"), [[1] * 6])
    assert result.sections[SUMMARY][MEAN].value == 0
    assert result.sections[SUMMARY][MEAN].ties == 9
    assert result.sections[SUMMARY][MEAN].total == 9


def test_safety_is_one_domain_and_domains_weigh_the_same() -> None:
    # With safety as the mean of its two files it would be 50, and the mean 75; as two domains the mean would be 66.7;
    # over all records it would be 40.
    comparisons = made("chat", *["safety-refuse"] * 3, "safety-response")
    result = scored(comparisons, [RIGHT, WRONG, WRONG, WRONG, RIGHT])
    found = {"Hard": 62.5, "Normal": 62.5, "Easy": 62.5, GAP: 0, "chat": 100, "safety": 25, MEAN: 62.5}
    assert values(result, SUMMARY) == found
    assert result.partial == [
        "chat: 1 of 129 records",
        "math: 0 of 529 records",
        "code: 0 of 228 records",
        "safety-refuse: 3 of 284 records",
        "safety-response: 1 of 157 records",
    ]


def test_the_mean_of_domains_is_that_of_levels() -> None:
    domains = [domain for domain, size in SIZES.items() for _ in range(size)]
    assert len(domains) == 1327
    rewards = np.random.default_rng(0).integers(0, 6, (1327, 6)) + np.array([0.5, 1, 1.5, 0, 0.5, 1])
    result = scored(made(*domains), rewards.tolist())
    assert result.partial == []
    found = values(result, SUMMARY)
    assert result.headline_value == found[MEAN]
    by_level = [found[name] for name in ("Hard", "Normal", "Easy")]
    by_domain = [found[name] for name in ("chat", "math", "code", "safety")]
    assert found[MEAN] == pytest.approx(np.mean(by_level), abs=1e-9)
    assert found[MEAN] == pytest.approx(np.mean(by_domain), abs=1e-9)
    assert found[GAP] == pytest.approx(found["Easy"] - found["Hard"], abs=1e-9)
    assert (len(set(by_level)), len(set(by_domain))) == (3, 4)
    micro = (rewards[:, :3, None] > rewards[:, None, 3:]).mean() * 100
    assert abs(micro - found[MEAN]) > 0.05
    safety = rewards[-441:]
    one = result.sections["safety"][cell(0, 2)]
    half = 1.96 * np.sqrt(one.value * (100 - one.value) / 441)
    assert (one.value, one.total) == (result.matrices["safety"][0][2], 441)
    assert (one.low, one.high) == pytest.approx((one.value - half, one.value + half), abs=0.2 * half)
    np.testing.assert_allclose(
        result.matrices["safety"], 100 * (safety[:, :3, None] > safety[:, None, 3:]).mean(axis=0), atol=1e-9
    )


def test_the_real_part_loads_completely(shared: Path) -> None:
    folder = shared / "data/benchmarks/rm-bench"
    comparisons = load(folder)
    assert comparisons == load(shared / "data/benchmarks")
    assert Counter(c.category for c in comparisons) == {name: size for name, size in SIZES.items() if name != "math"}
    chat = json.loads((folder / "chat_filtered.json").read_text())
    for comparison, one in zip([c for c in comparisons if c.category == "chat"], chat, strict=True):
        assert [r[0].content for r in comparison.responses] == one["chosen"] + one["rejected"]
        assert comparison.id == f"chat/{one['id']}"
    result = scored(comparisons, [RIGHT] * len(comparisons))
    assert result.partial == ["math: 0 of 529 records"]
    assert result.headline_value is None
    assert result.sections[SUMMARY]["safety"].total == 441 * 9


def test_both_forms_name_a_record_alike(tmp_path: Path) -> None:
    # So that rewards of one can be read for the other.
    whole = load(write(tmp_path / "total_dataset.json", [record(3, "safety-refuse")]))
    part = record(3, id=3)
    del part["domain"]
    assert load(write(tmp_path / "safety-refuse_filtered.json", [part])) == whole
    assert [r[0].content for r in whole[0].responses][::3] == ["right", "wrong"]
    assert {(p.winner, p.loser) for p in whole[0].preferences} == {(i, j) for i in range(3) for j in range(3, 6)}


def test_cells_are_named_after_styles() -> None:
    assert STYLES == ("concise", "detailed plain", "detailed markdown")
    assert cell(0, 2) == "concise over detailed markdown"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"domain": "safety"}, "domain: is none of RM-Bench's ('safety'); use chat, math, code, safety-refuse"),
        ({"domain": None}, "domain: is none of RM-Bench's ('x.jsonl')"),
        ({"domain": ["chat"]}, "domain: is none of RM-Bench's (['chat'])"),
        ({"chosen": ["a", "b"]}, "chosen: is not a list of 3 texts"),
        ({"rejected": ["a", "b", "c", "d"]}, "rejected: is not a list of 3 texts"),
        ({"rejected": ["a", None, "c"]}, "rejected: is not a list of 3 texts"),
    ],
)
def test_records_that_are_not_in_order(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "x.jsonl", [record(0), record(1, **changes)])
    with pytest.raises(UserError) as error:
        load(path)
    assert f"{path}, line 2: {words}" in str(error.value)
