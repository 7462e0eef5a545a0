"""The experiment's figures, from small tables and marks that anyone can count."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from curation_synthetic import Synthetic
from experiment_curation import curve, quality, summary

from skyrm_jax.curate.engine import write_table
from skyrm_jax.curate.pair import Pair, pairs_of
from skyrm_jax.data.synthetic import generate

WORLD = Synthetic()


def test_precision_and_recall_are_of_pairs_that_no_person_saw(tmp_path: Path) -> None:
    rows = [  # decision, verified by a person, whether the label was true; so many of each
        *[("kept", None, True)] * 6,
        *[("kept", None, False)] * 2,
        *[("flipped", None, False)] * 3,
        *[("flipped", None, True)] * 1,
        *[("discarded", None, True)] * 5,
        *[("discarded", None, False)] * 1,
        *[("kept", "original", False)] * 50,
        *[("flipped", "flipped", True)] * 50,
    ]
    table = pa.table(
        {
            "id": [str(n) for n in range(len(rows))],
            "decision": [row[0] for row in rows],
            "human": pa.array([row[1] for row in rows], pa.string()),
        }
    )
    for number, part in enumerate((table[:9], table[9:])):
        write_table(tmp_path / "decisions" / f"part-{number:05d}.parquet", part)
    found = quality(SimpleNamespace(stage2=tmp_path), {str(n): row[2] for n, row in enumerate(rows)})  # type: ignore[arg-type]
    assert found["keep_precision"] == pytest.approx(100 * 6 / 8) and found["keep_recall"] == pytest.approx(100 * 6 / 12)
    assert found["flip_precision"] == pytest.approx(100 * 3 / 4) and found["flip_recall"] == pytest.approx(100 * 3 / 6)
    assert (found["right"], found["wrong"]) == (12, 6)


def test_the_gap_and_what_is_closed_of_it() -> None:
    test = list(generate(40, 9, most=2))
    setting: Any = SimpleNamespace(world=WORLD, test=test)
    count = {"original": 20, "filtered": 26, "corrected": 28, "clean": 30}
    marks = {name: np.arange(40) < number for name, number in count.items()}
    sets: dict[str, list[Pair]] = {name: [] for name in count}
    told = summary(3, marks, sets, {"keep_precision": 99.0}, setting)
    assert told["seed"] == 3 and told["keep_precision"] == 99.0
    assert told["accuracy"] == {name: 2.5 * number for name, number in count.items()}
    assert told["gap"] == 25 and told["gap_closed"] == pytest.approx(80)
    low, high = (told["corrected_less_original"][name] for name in ("low", "high"))
    assert 0 < low < 20 < high and told["corrected_less_original"]["difference"] == pytest.approx(20)
    assert told["clean_less_corrected"]["difference"] == pytest.approx(5)
    assert told["filtered_less_original"]["difference"] == pytest.approx(15)


def test_points_of_the_curve_are_nested() -> None:
    pairs = [pair for one in generate(200, 4, most=2) for pair in pairs_of(one, "f", 1)]
    seen: dict[str, set[str]] = {}

    def marks(name: str, some: list[Pair]) -> np.ndarray:
        seen[name] = {pair.id for pair in some}
        return np.array([True, False])

    points = curve({"original": pairs, "corrected": pairs[:150]}, marks)
    assert {point["accuracy"] for point in points} == {50.0}
    for name in ("original", "corrected"):
        numbers = [point["pairs"] for point in points if point["set"] == name]
        parts = [seen[key] for key in seen if f"/{name}/" in key]
        assert numbers == sorted(numbers) == [len(part) for part in parts] and numbers[0] == round(0.02 * len(pairs))
        assert all(one < other for one, other in pairwise(parts))
