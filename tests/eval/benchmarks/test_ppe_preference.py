"""PPE Preference: votes with a winner count, exact ties of rewards are wrong, and slices say which votes they hold."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_records import ppe_preference as record
from published_records import write

from skyrm_jax.comparison import Comparison
from skyrm_jax.eval.benchmarks import BENCHMARKS, ppe_preference
from skyrm_jax.eval.benchmarks.ppe_preference import ACCURACY, ALL, SLICED
from skyrm_jax.eval.figures import Figure, Result


def load(path: Path) -> list[Comparison]:
    return BENCHMARKS["ppe-preference"].load(path)


def scored(path: Path, rows: Sequence[dict[str, Any]], rewards: Sequence[Sequence[float]]) -> Result:
    comparisons = load(write(path / "x.jsonl", rows))
    return BENCHMARKS["ppe-preference"].score(comparisons, [np.array(one) for one in rewards])


def counts(figure: Figure) -> tuple[float | None, int | None, int]:
    return figure.correct, figure.ties, figure.total


def test_the_winner_is_the_vote_and_responses_keep_their_order(tmp_path: Path) -> None:
    rows = [record(i, winner) for i, winner in enumerate(["model_a", "model_b", "tie", "tie (bothbad)"])]
    comparisons = load(write(tmp_path / "x.parquet", rows))
    for comparison in comparisons:
        assert [response[0].content for response in comparison.responses] == ["this", "that"]
    assert [[(p.winner, p.loser) for p in c.preferences] for c in comparisons] == [[(0, 1)], [(1, 0)], [], []]


def test_votes_for_neither_are_left_out_and_ties_of_rewards_are_wrong(tmp_path: Path) -> None:
    # Tied votes as wrong would give 33.3, a tied reward as half a point 62.5, tied rewards left out 66.7.
    winners = ["model_a", "model_b", "model_b", "model_a", "tie", "tie (bothbad)"]
    rewards = [[1, 0], [0, 1], [1, 0], [2, 2], [1, 1], [5, 1]]
    result = scored(tmp_path, [record(i, winner) for i, winner in enumerate(winners)], rewards)
    figure = result.sections[ACCURACY][ALL]
    assert figure.value == 50.0
    assert counts(figure) == (2, 1, 4)
    assert result.headline == (ACCURACY, ALL)
    assert result.partial == ["all: 6 of 16,038 votes"]
    assert result.notes == ["2 of 6 votes chose neither answer and are left out"]


def test_slices(tmp_path: Path) -> None:
    rows = [
        record(0, is_code=True),
        record(1, "model_b", hard_prompt=False, language="Russian"),
        record(2, "tie", math_prompt=True),
        record(3, is_code=True, language=None),
    ]
    result = scored(tmp_path, rows, [[1, 0], [1, 0], [1, 0], [0, 1]])
    assert {name: counts(figure) for name, figure in result.sections[SLICED].items()} == {
        "english": (1, 0, 1),
        "hard_prompt": (1, 0, 2),
        "is_code": (1, 0, 2),
        "not english": (0, 0, 1),
    }
    assert result.sections[ACCURACY][ALL].total == 3


def test_no_vote_with_a_winner(tmp_path: Path) -> None:
    result = scored(tmp_path, [record(0, "tie")], [[1, 0]])
    assert (result.sections, result.headline_value) == ({}, None)
    assert result.partial == ["all: 1 of 16,038 votes"]
    assert result.notes == ["no vote has a winner: there is nothing to be right or wrong about"]


def test_all_votes_make_a_headline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ppe_preference.SIZE == 16_038
    monkeypatch.setattr(ppe_preference, "SIZE", 3)
    result = scored(tmp_path, [record(i) for i in range(3)], [[1, 0], [1, 0], [0, 1]])
    assert (result.partial, result.headline_value) == ([], pytest.approx(200 / 3))
