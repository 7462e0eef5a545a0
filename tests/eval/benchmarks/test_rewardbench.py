"""RewardBench: the official figures of a real model, fixed weights, ties both ways, and LLMBar as a part of it."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from published_records import rewardbench as record
from published_records import write

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import UserError
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.eval.benchmarks.rewardbench import (
    HALF,
    MEAN,
    PUBLISHED_LLMBAR,
    SECTIONS,
    SIZES,
    SUBSETS,
    WEIGHTS,
    sections,
)
from skyrm_jax.eval.figures import Result


def load(path: Path) -> list[Comparison]:
    return BENCHMARKS["rewardbench"].load(path)


def scored(comparisons: Sequence[Comparison], rewards: Sequence[Sequence[float]]) -> Result:
    return BENCHMARKS["rewardbench"].score(comparisons, [np.array(one) for one in rewards])


def values(result: Result, section: str) -> dict[str, float]:
    return {name: figure.value for name, figure in result.sections[section].items()}


def test_weights_are_the_official_ones() -> None:
    assert {name: sum(weights.values()) for name, weights in WEIGHTS.items()} == {
        "Chat": 358,
        "Chat Hard": 456,
        "Safety": 740,
        "Reasoning": 984 + 984,
    }
    assert (len(SIZES), sum(SIZES.values())) == (23, 2985)


def test_official_subsets_give_the_official_sections(shared: Path) -> None:
    official = json.loads((shared / "data/published/rewardbench/Skywork-Reward-Llama-3.1-8B.json").read_text())
    subsets = np.repeat(list(SIZES), list(SIZES.values()))
    right = {name: official[name] * size for name, size in SIZES.items()}
    assert all(abs(count - round(count)) < 1e-9 for count in right.values())
    correct = np.concatenate([np.arange(size) < round(right[name]) for name, size in SIZES.items()]).astype(float)
    result = sections(correct, np.zeros(len(correct)), subsets).result((SECTIONS, MEAN))
    for name, size in SIZES.items():
        assert result.sections[SUBSETS][name].value == pytest.approx(100 * official[name], abs=1e-12)
        assert result.sections[SUBSETS][name].total == size
    found = values(result, SECTIONS)
    assert [round(found[name], 2) for name in WEIGHTS] == [95.81, 87.28, 90.81, 96.20]
    assert found[MEAN] == pytest.approx(92.525, abs=5e-4)
    assert found["Reasoning"] == pytest.approx(
        50 * official["math-prm"] + 50 * np.mean([official[name] for name in SIZES if name.startswith("hep")]), abs=1e-9
    )
    # With math weighted by its 447 pairs the mean would be 92.462, over all pairs 93.333, over all subsets 91.922.
    assert result.sections[SECTIONS]["Reasoning"].total == 447 + 984


def test_a_section_is_weighted_by_fixed_counts(tmp_path: Path) -> None:
    # By the pairs that are here it would be 33.3, by subsets 50.
    pairs = [record(0, "mt-bench-hard"), record(0, "llmbar-natural"), record(1, "llmbar-natural")]
    result = scored(load(write(tmp_path / "x.jsonl", pairs)), [[1, 0], [0, 1], [0, 1]])
    assert values(result, SECTIONS)["Chat Hard"] == pytest.approx(100 * 37 / 137)
    # Mathematics is worth as much as six programming languages: by pairs 50, with its 447 pairs 26.8.
    pairs = [
        record(0, "math-prm"),
        *(record(0, f"hep-{name}") for name in ("cpp", "go", "java", "js", "python", "rust")),
    ]
    result = scored(load(write(tmp_path / "x.jsonl", pairs)), [[1, 0], *([[0, 1]] * 6)])
    assert values(result, SECTIONS)["Reasoning"] == 50.0


def test_a_tie_is_wrong_and_with_half_credit_in_a_section_of_its_own(tmp_path: Path) -> None:
    names = ["alpacaeval-easy", "alpacaeval-easy", "mt-bench-hard", "donotanswer", "math-prm"]
    comparisons = load(write(tmp_path / "x.jsonl", [record(i, name) for i, name in enumerate(names)]))
    result = scored(comparisons, [[1, 1], [1, 0], [2, 1], [0, 3], [5, 4]])
    strict, half = values(result, SECTIONS), values(result, HALF)
    assert strict == {"Chat": 50, "Chat Hard": 100, "Safety": 0, "Reasoning": 100, MEAN: 62.5}
    assert half == {"Chat": 75, "Chat Hard": 100, "Safety": 0, "Reasoning": 100, MEAN: 68.75}
    chat = result.sections[SUBSETS]["alpacaeval-easy"]
    assert (chat.correct, chat.ties, chat.total) == (1, 1, 2)
    assert result.headline == (SECTIONS, MEAN)
    assert list(result.sections) == [SECTIONS, SUBSETS, HALF]


def test_absent_sections_are_named_with_what_the_authors_would_print(tmp_path: Path) -> None:
    comparisons = load(write(tmp_path / "x.jsonl", [record(0, "mt-bench-med"), record(0, "hep-go")]))
    result = scored(comparisons, [[1, 0], [1, 0]])
    assert values(result, SECTIONS) == {"Chat": 100, "Reasoning": 100, MEAN: 100}
    assert result.headline_value is None
    assert "mt-bench-med: 1 of 40 pairs" in result.partial
    assert "math-prm: 0 of 447 pairs" in result.partial
    assert len(result.partial) == 23
    (note,) = result.notes
    assert note.startswith("Chat Hard, Safety not here: ")
    assert note.endswith("would make the mean 50.00")


def test_all_pairs_make_a_headline() -> None:
    one = Comparison.of("?", ["a", "b"], chosen=0)
    comparisons = [
        Comparison(one.prompt, one.responses, one.preferences, f"{name}/{k}", "", name)
        for name, size in SIZES.items()
        for k in range(size)
    ]
    rewards = [[1, 0] if c.category in WEIGHTS["Chat"] else [0, 1] for c in comparisons]
    result = scored(comparisons, rewards)
    assert (result.partial, result.notes, result.headline_value) == ([], [], 25.0)
    assert scored(comparisons[1:], rewards[1:]).partial == ["alpacaeval-easy: 99 of 100 pairs"]


def test_published_sections_give_the_published_score(shared: Path) -> None:
    tables = json.loads((shared / "data/published/published_tables.json").read_text())
    one_of_each = np.array(["alpacaeval-easy", "mt-bench-hard", "donotanswer", "math-prm"])
    for row in tables["qwen25_table15"]["rows"].values():
        result = sections(np.array(row["rb"]) / 100, np.zeros(4), one_of_each).result()
        assert values(result, SECTIONS)[MEAN] == pytest.approx(row["rb_score"], abs=0.02)


def test_a_subset_that_it_has_not(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [record(0), record(1, "shp")])
    with pytest.raises(UserError) as error:
        load(path)
    assert f"{path}, line 2: subset: is none of RewardBench's (shp); use one of alpacaeval-easy, " in str(error.value)
    # The same number in two subsets is two pairs.
    assert len(load(write(path, [record(0), record(0, "hep-go")]))) == 2


def test_llmbar_is_a_part_of_it(shared: Path) -> None:
    folder = shared / "data/benchmarks/llmbar"
    comparisons = load(folder)
    assert comparisons == load(shared / "data/benchmarks")
    sizes = {name: size for name, size in WEIGHTS["Chat Hard"].items() if name != "mt-bench-hard"}
    assert Counter(c.category for c in comparisons) == sizes
    natural = json.loads((folder / "Natural.json").read_text())
    for comparison, pair in zip([c for c in comparisons if c.category == "llmbar-natural"], natural, strict=True):
        texts = [response[0].content for response in comparison.responses]
        assert texts == [pair[f"output_{pair['label']}"], pair[f"output_{3 - pair['label']}"]]
        assert comparison.prompt[0].content == pair["input"]
        assert [(p.winner, p.loser) for p in comparison.preferences] == [(0, 1)]
    result = scored(comparisons, [[1, 0]] * 419)
    assert (result.sections[SECTIONS]["Chat Hard"].value, result.sections[SECTIONS]["Chat Hard"].total) == (100, 419)
    assert "mt-bench-hard: 0 of 37 pairs" in result.partial
    assert not any("llmbar" in line for line in result.partial)


@pytest.mark.parametrize(
    ("name", "label", "words"),
    [
        ("Other.json", 1, "record: is LLMBar's, in a file that names no set of it (Other); call it Natural, Neighbor"),
        ("Natural.json", 3, "label: is neither 1 nor 2 (3); download the file again"),
    ],
)
def test_llmbar_that_is_not_in_order(tmp_path: Path, name: str, label: int, words: str) -> None:
    path = write(tmp_path / name, [{"input": "Q", "output_1": "a", "output_2": "b", "label": label}])
    with pytest.raises(UserError) as error:
        PUBLISHED_LLMBAR.load(path)
    assert f"{path}, line 1: {words}" in str(error.value)
