"""The rule of stage 2 against a table written out by hand, and against a slow reading of the paper's sentence."""

from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from skyrm_jax.curate.decisions import SCHEMA, Opinions, Rule, decide, opinion, table
from skyrm_jax.errors import UserError

P = {1: 0.95, 0: 0.5, -1: 0.05}
NOBODY = (0, 0, 0)


def opinions(rows: list[tuple[int, int, int]], human: list[int | None] | None = None) -> Opinions:
    """Rows of (gold, best, annotators)."""
    gold, best, annotators = (np.array(column) for column in zip(*rows, strict=True))
    people = human or [None] * len(rows)
    return Opinions(
        best_p=np.array([P[int(b)] for b in best]),
        gold_p=np.array([P[int(g)] for g in gold]),
        annotators=annotators.astype(np.int8),
        human=np.array([h or 0 for h in people], np.int8),
        asked=annotators != 0,
        seen=np.array([h is not None for h in people]),
    )


def one(rule: Rule, row: tuple[int, int, int], human: int | None = None) -> tuple[str, str]:
    decision, by = decide(rule, opinions([row], [human]))
    return str(decision[0]), str(by[0])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ((1, 1, 0), ("kept", "gold+best")),
        ((1, -1, 1), ("kept", "gold+annotators")),
        ((1, 1, 1), ("kept", "gold+best+annotators")),
        ((1, 1, -1), ("kept", "gold+best")),
        ((-1, -1, 0), ("flipped", "gold+best")),
        ((-1, 1, -1), ("flipped", "gold+annotators")),
        ((1, 0, 0), ("discarded", "gold model alone")),
        ((1, -1, -1), ("discarded", "gold model alone")),
        ((-1, 1, 1), ("discarded", "gold model alone")),
        ((0, 1, 1), ("discarded", "gold model unsure")),
        ((0, -1, -1), ("discarded", "gold model unsure")),
    ],
)
def test_the_default_rule(row: tuple[int, int, int], expected: tuple[str, str]) -> None:
    assert one(Rule(), row) == expected


def test_every_rule_on_every_row() -> None:
    rows = list(product((-1, 0, 1), repeat=3))
    stands: dict[Any, Any] = {
        "gold_and_either": lambda g, b, a: g == 1 and (b == 1 or a == 1),
        "gold": lambda g, b, a: g == 1,
        "best": lambda g, b, a: b == 1,
        "annotators": lambda g, b, a: a == 1,
        "best_or_annotators": lambda g, b, a: b == 1 or a == 1,
    }
    for keep, confident, recycle in product(stands, ("checked", "retained"), ("checked", "all", "none")):
        decision, _ = decide(Rule(keep=keep, confident=confident, recycle=recycle), opinions(rows))
        for (g, b, a), found in zip(rows, decision, strict=True):
            turned = stands[keep](-g, -b, -a)
            if stands[keep](g, b, a) or (confident == "retained" and b == 1):
                expected = "kept"
            elif recycle == "all" or (recycle == "checked" and turned):
                expected = "flipped"
            else:
                expected = "discarded"
            assert found == expected, (keep, confident, recycle, g, b, a)


@pytest.mark.parametrize(
    ("human", "expected"),
    [(1, ("kept", "human")), (-1, ("flipped", "human")), (0, ("discarded", "human: undecidable"))],
)
def test_a_persons_word_decides(human: int, expected: tuple[str, str]) -> None:
    for row in product((-1, 0, 1), repeat=3):
        assert one(Rule(recycle="all", confident="retained"), row, human) == expected


def test_bands_leave_opinions_out() -> None:
    p = np.array([0.0, 0.39, 0.4, 0.5, 0.6, 0.61, 1.0, np.nan])
    assert opinion(p, 0.1).tolist() == [-1, -1, 0, 0, 0, 1, 1, 0]
    assert opinion(p, 0.0).tolist() == [-1, -1, -1, 0, 1, 1, 1, 0]
    assert Rule(band=0.1).doubtful(p).tolist() == [True] * 5 + [False, False, True]


def test_flips_can_need_a_surer_gold_model() -> None:
    sure = Opinions(
        best_p=np.array([0.05, 0.05]),
        gold_p=np.array([0.2, 0.02]),
        annotators=np.zeros(2, np.int8),
        human=np.zeros(2, np.int8),
        asked=np.zeros(2, bool),
        seen=np.zeros(2, bool),
    )
    assert decide(Rule(), sure)[0].tolist() == ["flipped", "flipped"]
    assert decide(Rule(flip_band=0.4), sure)[0].tolist() == ["discarded", "flipped"]


def test_a_table_keeps_every_opinion() -> None:
    known = opinions([(1, 1, 0), (-1, 0, -1), (0, 0, 0)], [None, None, 1])
    rows = table(pa.array(["a", "b", "c"]), Rule(), known)
    assert rows.schema == SCHEMA
    assert rows.select(["id", "decision", "by", "human", "gold", "best", "annotators"]).to_pylist() == [
        dict(id="a", decision="kept", by="gold+best", human=None, gold="original", best="original", annotators=None),
        dict(id="b", decision="flipped", by="gold+annotators", human=None, gold="flipped", best="none", annotators="flipped"),
        dict(id="c", decision="kept", by="human", human="original", gold="none", best="none", annotators=None),
    ]  # fmt: skip


def test_without_a_gold_model_its_p_is_null() -> None:
    known = opinions([(0, 1, 0)])
    blind = Opinions(known.best_p, np.array([np.nan]), known.annotators, known.human, known.asked, known.seen)
    row = table(pa.array(["a"]), Rule(keep="best_or_annotators"), blind).to_pylist()[0]
    assert (row["decision"], row["by"], row["gold"], row["gold_p"]) == ("kept", "best", None, None)


@pytest.mark.parametrize("name", ["band", "gold_band", "flip_band"])
def test_bands_are_checked(name: str) -> None:
    with pytest.raises(UserError, match=f"stage2.rule.{name}"):
        Rule(**{name: 0.5})
