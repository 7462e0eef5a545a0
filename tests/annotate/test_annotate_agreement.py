"""Figures of agreement, against published examples that were worked by hand."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrm_jax.annotate.agreement import Share, alpha, kappa, measure, share
from skyrm_jax.annotate.values import AnswerRow, FlagRow
from skyrm_jax.curate.humans.verified import agreement

# K. Krippendorff, Computing Krippendorff's alpha-reliability (2011), C: four observers, twelve units, missing data.
OBSERVERS = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
UNITS = [[int(one) for one in unit if one != "."] for unit in zip(*OBSERVERS, strict=True)]

NUMBERS = count()
SIDES = {1: "left better", 2: "right better", 0: "both bad"}


def row(who: str, item: str, candidate: int, **values: Any) -> AnswerRow:
    """An answer for a candidate; 0: undecidable."""
    fields: dict[str, Any] = dict(
        answer=next(NUMBERS), batch="b", item=item, category="Math", who=who, choice=SIDES[candidate],
        verdict=("undecidable", "candidate 1", "candidate 2")[candidate], swapped=False, attributes={}, tools="",
        links=(), note="", seconds=10.0, time=0.0, why="", gold=None, machine=None, origin="queue", waits="",
    )  # fmt: skip
    return AnswerRow(**fields | values)


def test_alpha_of_krippendorffs_own_example() -> None:
    assert alpha(UNITS, range(1, 6), "nominal") == pytest.approx(0.743, abs=5e-4)
    assert alpha(UNITS, range(1, 6), "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert alpha([], range(1, 6), "nominal") is None
    assert alpha([[1, 1], [1, 1, 1], [2]], range(1, 6), "nominal") is None


def test_kappa_of_a_table_worked_by_hand() -> None:
    # 50 proposals for a grant, two readers: both yes 20, both no 15; p_o = 0.7, p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert kappa(pairs) == pytest.approx(0.4)
    assert kappa([("yes", "yes")] * 3) is None
    assert kappa([("yes", "no"), ("no", "yes")]) == pytest.approx(-1)


def test_wilsons_interval() -> None:
    # R. G. Newcombe, Interval estimation for the difference (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for k, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = share(k, n)
        assert found.value == k / n
        assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert share(0, 0) == Share(0, 0, None, None, None)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), max_size=8))
def test_alpha_is_the_one_that_curation_reports(items: list[list[int]]) -> None:
    answers = [row(f"p{n}", str(k), one) for k, item in enumerate(items) for n, one in enumerate(item)]
    ours = measure(answers).alphas[0]
    theirs = agreement([[("u", "1", "2")[one] for one in item] for item in items])
    if theirs is None:
        assert (ours.items, ours.nominal) == (0, None)
    else:
        assert ours.items == theirs.items
        assert ours.nominal == (None if theirs.alpha is None else pytest.approx(theirs.alpha))


def some() -> Iterator[AnswerRow]:
    for n in range(50):
        ann, bob = (1, 1) if n < 20 else (1, 2) if n < 25 else (2, 1) if n < 35 else (2, 2)
        category = "Math" if n % 2 else "Editing"
        yield row("ann", f"{n}", ann, category=category)
        yield row("bob", f"{n}", bob, category=category, swapped=True, choice=SIDES[3 - bob])


def test_figures_are_over_all_and_by_category() -> None:
    found = measure(
        some(), [FlagRow("0", "b", "Math", "ann", "x", 0.0, False), FlagRow("1", "b", "", "cat", "y", 0, True)]
    )
    assert [one.category for one in found.alphas] == ["", "Editing", "Math"]
    assert [(one.one, one.other, one.category, one.items) for one in found.kappas] == [
        ("ann", "bob", "", 50), ("ann", "bob", "Editing", 25), ("ann", "bob", "Math", 25),
    ]  # fmt: skip
    assert found.kappas[0].same == 0.7 and found.kappas[0].kappa == pytest.approx(0.4)
    # Two observers, two values: 1 - (n - 1) * o_12 / (n_1 * n_2), with o_12 = 15 of n = 100, n_1 = 55.
    assert found.alphas[0].nominal == pytest.approx(1 - 99 * 15 / (55 * 45))
    assert (found.alphas[0].items, found.alphas[0].answers) == (50, 100)
    people = {(one.who, one.category): one for one in found.people}
    assert people["ann", ""].answers == 50 and people["ann", "Math"].answers == 25
    assert {name: one.flags for name, one in people.items() if one.flags} == {
        ("ann", ""): 1, ("ann", "Math"): 1, ("cat", ""): 1,
    }  # fmt: skip
    assert people["ann", ""].alpha == pytest.approx(found.alphas[0].nominal)
    # bob is for candidate 1 30 times, which he saw on the right.
    assert (people["bob", ""].left.k, people["bob", ""].left.n) == (20, 50)
    assert people["cat", ""].answers == 0 and people["cat", ""].left.value is None and people["cat", ""].side_p is None


def test_gold_sides_pace_and_what_is_left_undecided() -> None:
    answers = [row("ann", f"{n}", 1, gold="candidate 1" if n < 8 else "candidate 2", seconds=20.0) for n in range(10)]
    answers += [
        row("ann", "u", 0, gold="undecidable", seconds=60.0),
        row("ann", "v", 0, seconds=None, origin="imported"),
    ]
    answers += [row("ann", "w", 2, seconds=40.0, origin="imported")]
    ann = measure(answers).people[0]
    # Of eleven checks ten count, so that no answer changes the figures by itself.
    assert (ann.gold.k, ann.gold.n) == (8, 10) and (ann.left.k, ann.left.n) == (10, 10)
    assert ann.side_p == pytest.approx(2 / 2**10)
    assert ann.median_seconds == 20.0 and ann.per_hour == pytest.approx(3600 * 12 / 300)
    assert (ann.answers, ann.undecidable) == (13, 2)


def test_the_scale_is_turned_with_the_sides_and_undecided_ones_are_left_out() -> None:
    def said(choice_1: str, choice_2: str, item: str) -> list[AnswerRow]:
        return [row("ann", item, 1, choice=choice_1), row("bob", item, 1, choice=choice_2, swapped=True)]

    same = said("left much better", "right much better", "0") + said("right better", "left better", "1")
    assert measure(same).alphas[0].ordinal == 1.0
    near = measure(same + said("left much better", "right better", "2")).alphas[0].ordinal
    far = measure(same + said("left much better", "left much better", "2")).alphas[0].ordinal
    assert near is not None and far is not None and far < near < 1
    assert measure(same + said("left better", "cannot decide", "2")).alphas[0].ordinal == 1.0


def test_adjudications_do_not_count_against_agreement() -> None:
    plain = [row("ann", "0", 1), row("bob", "0", 2), row("ann", "1", 2), row("bob", "1", 2)]
    extra = [row("eve", "0", 1, origin="adjudication")]
    assert measure(plain + extra).alphas[0] == measure(plain).alphas[0]
    assert {one.other for one in measure(plain + extra).kappas} == {"bob"}
    assert {one.who for one in measure(plain + extra).people} == {"ann", "bob", "eve"}


def test_no_figure_tells_which_answer_was_to_a_check() -> None:
    """Whatever the item, an answer changes how many there are and how they lie, and nothing else."""
    known = [row(who, f"g{n}", 1, gold="candidate 1") for n in range(10) for who in ("ann", "bob")]
    before = measure(known)
    after = [measure([*known, row("bob", "new", 1), row("ann", "new", 1, gold=gold)]) for gold in (None, "candidate 2")]
    assert before.people[0].gold.n == 10 and before.kappas[0].items == 10
    ordinary, check = (next(one for one in found.people if one.who == "ann") for found in after)
    assert check.answers == ordinary.answers == 11 and check.left == ordinary.left
    assert (check.gold, after[1].alphas, after[1].kappas) == (before.people[0].gold, before.alphas, before.kappas)
    nine = [row(who, f"h{n}", 2, gold="candidate 1") for n in range(9) for who in ("ann", "bob")]
    last = [row(who, "h9", 2, gold="candidate 1") for who in ("ann", "bob")]
    assert measure(known + nine).people[0].gold.n == 10
    assert (whole := measure(known + nine + last)).people[0].gold.n == 20 and whole.kappas[0].items == 20


def test_of_nothing_there_are_no_figures() -> None:
    found = measure([])
    assert (found.alphas[0].items, found.alphas[0].nominal, found.kappas, found.people) == (0, None, [], [])
