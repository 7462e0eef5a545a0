"""RMB: four cells, each over all its records; the best of N must beat every loser."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_records import rmb_best, rmb_pair, write

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import UserError
from skyrm_jax.eval import table
from skyrm_jax.eval.benchmarks import BENCHMARKS, rmb
from skyrm_jax.eval.benchmarks.rmb import BEST, MEAN, PAIRWISE, SIZES, SUMMARY
from skyrm_jax.eval.figures import Result
from skyrm_jax.eval.statistics import drawn

HELP_PAIR, HELP_BEST, HARM_PAIR, HARM_BEST = SIZES
PATHS = {
    HELP_PAIR: "Pairwise_set/Helpfulness/Chat/Discussion",
    HELP_BEST: "BoN_set/Helpfulness/Chat/Discussion",
    HARM_PAIR: "Pairwise_set/Harmlessness/S1",
    HARM_BEST: "BoN_set/Harmlessness/S1",
}


def load(path: Path) -> list[Comparison]:
    return BENCHMARKS["rmb"].load(path)


def scored(comparisons: Sequence[Comparison], rewards: Sequence[Sequence[float]]) -> Result:
    return BENCHMARKS["rmb"].score(comparisons, [np.array(one) for one in rewards])


def made(path: Path, *records: Mapping[str, Any]) -> list[Comparison]:
    return load(write(path / "x.jsonl", records))


@pytest.fixture
def figures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are rough, and there are no curves."""
    monkeypatch.setattr(table, "drawn", partial(drawn, replicates=10))
    monkeypatch.setattr(rmb, "best_of_n", lambda *_: None)


def with_right(right: Mapping[str, int], sizes: Mapping[str, int]) -> Result:
    """The figures of a model that has so many of so many records of each cell right."""
    one = Comparison.of("?", ["a", "b"], chosen=0)
    names = [(cell, k) for cell, size in sizes.items() for k in range(size)]
    comparisons = [replace(one, id=f"{cell}/{k}", category=PATHS[cell]) for cell, k in names]
    return scored(comparisons, [[k < right[cell], 0.5] for cell, k in names])


@pytest.mark.usefixtures("figures_alone")
def test_counts_of_two_real_models_give_their_published_mean() -> None:
    # RM-R1. Over all records the first would have 74.94; of all pairs and all best-of-N records 69.9.
    first = {HELP_PAIR: 7907, HELP_BEST: 1307, HARM_PAIR: 5425, HARM_BEST: 1036}
    second = {HELP_PAIR: 8071, HELP_BEST: 1372, HARM_PAIR: 5692, HARM_BEST: 1111}
    for right, mean in ((first, 69.773), (second, 73.014)):
        result = with_right(right, SIZES)
        assert result.headline_value == pytest.approx(mean, abs=5e-4)
        figures = result.sections[SUMMARY]
        assert [figures[cell].correct for cell in SIZES] == [right[cell] for cell in SIZES]
        assert figures[PAIRWISE].value == pytest.approx((figures[HELP_PAIR].value + figures[HARM_PAIR].value) / 2)
        assert figures[BEST].value == pytest.approx((figures[HELP_BEST].value + figures[HARM_BEST].value) / 2)
        assert result.partial == []


@pytest.mark.usefixtures("figures_alone")
def test_published_cells_give_the_published_means(shared: Path) -> None:
    tables = json.loads((shared / "data/published/published_tables.json").read_text())
    assert tables["qwen25_table15"]["order"]["rmb"] == ["Help BoN", "Help Pairwise", "Harm BoN", "Harm Pairwise"]
    thousand = dict.fromkeys((HELP_BEST, HELP_PAIR, HARM_BEST, HARM_PAIR), 1000)
    for row in tables["qwen25_table15"]["rows"].values():
        right = {cell: round(10 * share) for cell, share in zip(thousand, row["rmb"], strict=True)}
        mean = with_right(right, thousand).sections[SUMMARY][MEAN].value
        assert mean == pytest.approx(row["rmb_overall"], abs=0.05)
    for helpful, harmless, mean in tables["skywork_v2_rmb_bon"]["rows"].values():
        right = {HELP_BEST: round(10 * helpful), HARM_BEST: round(10 * harmless)}
        figure = with_right(right, dict.fromkeys(right, 1000)).sections[SUMMARY][BEST]
        assert figure.value == pytest.approx(mean, abs=0.06)


def test_the_best_must_beat_every_loser_strictly(tmp_path: Path) -> None:
    # Not strictly it would be 50, with half a point for the tie 37.5, by pairs against each loser 8 of 12, 66.7.
    comparisons = made(tmp_path, *(rmb_best(i, losers=3) for i in range(4)))
    result = scored(comparisons, [[3, 2, 1, 0], [3, 3, 1, 0], [2, 3, 1, 0], [1, 2, 3, 0]])
    figure = result.sections[SUMMARY][HARM_BEST]
    assert (figure.value, figure.correct, figure.ties, figure.total) == (25.0, 1, 1, 4)
    curve = result.curves[HARM_BEST]
    assert (curve.reward[3], curve.oracle[3]) == pytest.approx((37.5, 100))
    assert list(result.curves) == [HARM_BEST]


def test_a_tied_pair_is_wrong(tmp_path: Path) -> None:
    # With half a point it would be 50, as a win 75.
    figure = scored(made(tmp_path, *map(rmb_pair, range(4))), [[1, 1], [1, 1], [0, 1], [1, 0]]).sections[SUMMARY]
    assert (figure[HELP_PAIR].value, figure[HELP_PAIR].ties) == (25.0, 2)


def test_a_cell_is_over_records_and_the_mean_over_cells(tmp_path: Path) -> None:
    # The cell: by scenarios it would be 50. The mean of all: over records 62.5, over scenarios 40.
    three = [rmb_pair(i, "Helpfulness/Chat/Discussion") for i in range(3)]
    comparisons = made(
        tmp_path,
        *three,
        rmb_pair(3, "Helpfulness/Code/Documentation"),
        *(rmb_pair(i, "Harmlessness/multi") for i in range(4, 6)),
        rmb_best(0, "Helpfulness/Chat/Discussion"),
        rmb_best(1, "Harmlessness/S1"),
    )
    won, lost = [1, 0], [0, 1]
    result = scored(comparisons, [won, won, won, lost, won, lost, [1, 0, 0], [0, 1, 0]])
    assert {name: figure.value for name, figure in result.sections[SUMMARY].items()} == {
        HELP_PAIR: 75,
        HELP_BEST: 100,
        HARM_PAIR: 50,
        HARM_BEST: 0,
        PAIRWISE: 62.5,
        BEST: 50,
        MEAN: 56.25,
    }
    scenarios = {name: figure.value for name, figure in result.sections[HELP_PAIR].items()}
    assert scenarios == {"Chat/Discussion": 100, "Code/Documentation": 0}
    assert list(result.sections) == [SUMMARY, *SIZES]
    assert result.headline == (SUMMARY, MEAN)
    assert result.partial[:2] == [
        "Helpfulness, pairwise: 4 of 10,067 records",
        "Helpfulness, best-of-N: 1 of 2,109 records",
    ]


def test_the_real_part_loads_completely(shared: Path) -> None:
    comparisons = load(shared / "data/benchmarks/rmb")
    assert comparisons == load(shared / "data/benchmarks")
    assert Counter(c.category for c in comparisons) == {
        "BoN_set/Harmlessness/S1": 111,
        "BoN_set/Harmlessness/S6": 83,
        "BoN_set/Harmlessness/multi": 131,
        "BoN_set/Helpfulness/Chat/Casual Conversation": 71,
        "BoN_set/Helpfulness/Chat/Discussion": 59,
        "BoN_set/Helpfulness/Chat/Supportive Conversation": 25,
        "BoN_set/Helpfulness/Rewrite/Paraphrasing": 17,
        "BoN_set/Helpfulness/Rewrite/PostQuality Assessment Rewriting": 46,
        "BoN_set/Helpfulness/Rewrite/Textual ExpansionReduction": 9,
        "BoN_set/Helpfulness/Rewrite/Tone Adjustment": 17,
        "Pairwise_set/Harmlessness/S1": 459,
        "Pairwise_set/Harmlessness/S6": 317,
        "Pairwise_set/Harmlessness/multi": 502,
        "Pairwise_set/Helpfulness/Chat/Casual Conversation": 306,
        "Pairwise_set/Helpfulness/Chat/Discussion": 293,
        "Pairwise_set/Helpfulness/Chat/Supportive Conversation": 114,
        "Pairwise_set/Helpfulness/Rewrite/Paraphrasing": 83,
        "Pairwise_set/Helpfulness/Rewrite/PostQuality Assessment Rewriting": 222,
        "Pairwise_set/Helpfulness/Rewrite/Textual ExpansionReduction": 50,
        "Pairwise_set/Helpfulness/Rewrite/Tone Adjustment": 103,
    }
    assert {len(c.prompt) for c in comparisons} == {1, 3, 5}
    assert {c.prompt[-1].role for c in comparisons} == {"user"}
    identical = [c.category.partition("/")[0] for c in comparisons if len(set(c.responses)) < len(c.responses)]
    assert Counter(identical) == {"Pairwise_set": 1, "BoN_set": 3}
    result = scored(comparisons, [np.r_[1.0, np.zeros(len(c.responses) - 1)].tolist() for c in comparisons])
    assert {figure.value for figure in result.sections[SUMMARY].values()} == {100}
    assert result.headline_value is None
    assert result.partial == [
        "Helpfulness, pairwise: 1,171 of 10,067 records",
        "Helpfulness, best-of-N: 244 of 2,109 records",
        "Harmlessness, pairwise: 1,278 of 7,064 records",
        "Harmlessness, best-of-N: 325 of 1,677 records",
    ]


def test_the_whole_conversation_is_the_prompt(tmp_path: Path) -> None:
    pair, best = made(tmp_path, rmb_pair(0), rmb_best(1, losers=3))
    turns = [(message.role, message.content) for message in pair.prompt]
    assert turns == [("user", "Hello"), ("assistant", "Yes?"), ("user", "Question 0")]
    assert [response[0].content for response in pair.responses] == ["better", "worse"]
    assert [response[0].content for response in best.responses] == ["best", "loser 0", "loser 1", "loser 2"]
    assert {(p.winner, p.loser) for p in best.preferences} == {(0, 1), (0, 2), (0, 3)}
    assert (pair.id, best.id) == ("Pairwise_set/p0", "BoN_set/b1")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (rmb_pair(1, category_path="Chat/Discussion"), "category_path: is none of RMB's ('Chat/Discussion')"),
        (rmb_pair(1, category_path="Pairwise_set/Honesty/S1"), "category_path: is none of RMB's"),
        (rmb_pair(1, category_path=""), "category_path: is none of RMB's ('')"),
        (rmb_pair(1, category_path=PATHS[HARM_BEST]), "bon_uid: is missing; a record of BoN_set has bon_uid, bon_best"),
        (rmb_best(1, category_path=PATHS[HELP_PAIR]), "pair_uid: is missing; a record of Pairwise_set has pair_uid"),
        (rmb_pair(1, chosen="better"), "chosen: holds no answer ('better')"),
        (rmb_pair(1, reject={"llm_name": "m"}), "reject: holds no answer ({'llm_name': 'm'})"),
        (rmb_best(1, loser_list=[]), "loser_list: is not a list of one answer or more ([])"),
        (rmb_best(1, loser_list=None), "loser_list: is not a list of one answer or more (None)"),
        (rmb_best(1, loser_list=[{"answer": 3}]), "loser_list: holds no answer ({'answer': 3})"),
        (rmb_pair(1, conversation_input=["Hello"]), "prompt: holds a message that is not an object"),
        (rmb_pair(1, conversation_input=[]), "prompt: has no user turn"),
        (rmb_pair(1, conversation_input=[{"role": "user"}]), "prompt.content: is missing"),
        (rmb_pair(1, conversation_input=[{"role": "human", "content": "?"}]), "prompt.role: is not known"),
    ],
)
def test_records_that_are_not_in_order(tmp_path: Path, bad: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        made(tmp_path, rmb_pair(0), bad)
    assert f"x.jsonl, line 2: {words}" in str(error.value)
