"""How far people agree, how often they are right on gold checks, whether they lean to a side, and how fast they are.

Verdicts are taken as they were given, of candidates 1 and 2, never of the label, which nobody knows who answers.
Adjudications are left out where people are compared: adjudicators get just the items on which others disagree.
Of what each person says of gold checks only whole tens count there: who looks at the figures after each answer is not to
read off them which item was one.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Literal

import krippendorff
import numpy as np
from scipy.stats import binomtest

from skyrm_jax.annotate.given import scale, side
from skyrm_jax.annotate.values import AnswerRow, FlagRow
from skyrm_jax.curate.humans.batch import UNDECIDABLE, VERDICTS

SCALE = (-2, -1, 0, 1, 2)

CHECKS = 10
"""Gold checks of a person after which the next ones count."""


@dataclass(frozen=True, slots=True)
class Alpha:
    """Krippendorff's alpha in a category.

    Attributes:
        category: "" for all.
        items: that two people or more answered; `answers` to those.
        nominal: of verdicts; None where it is not defined, for nobody compares or all say the same.
        ordinal: of the five-point scale, from candidate 2 much better to candidate 1 much better.
    """

    category: str
    items: int
    answers: int
    nominal: float | None
    ordinal: float | None


@dataclass(frozen=True, slots=True)
class Kappa:
    """Cohen's kappa of the verdicts of two annotators.

    Attributes:
        category: "" for all.
        items: that both answered.
        same: the share of them with the same verdict, 0 to 1.
        kappa: None where both gave one and the same verdict throughout.
    """

    one: str
    other: str
    category: str
    items: int
    same: float
    kappa: float | None


@dataclass(frozen=True, slots=True)
class Share:
    """k of n; `low` to `high` is Wilson's 95 % interval. None where n is 0."""

    k: int
    n: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Person:
    """One annotator in one category.

    Attributes:
        category: "" for all.
        alpha: Krippendorff's for verdicts, on the items that they answered, over all who did.
        gold: right verdicts on gold checks, of which whole tens count.
        left: answers for the left one of those for either side, given here.
        side_p: how probable so one-sided a share of left is by chance; None without such answers.
        median_seconds: of active time an answer.
        per_hour: answers in an hour of active time.
        undecidable: answers for neither side.
        flags: set and not taken back.
    """

    who: str
    category: str
    answers: int
    alpha: float | None
    gold: Share
    left: Share
    side_p: float | None
    median_seconds: float | None
    per_hour: float | None
    undecidable: int
    flags: int


@dataclass(frozen=True)
class Agreement:
    """All figures, sorted by annotators and categories."""

    alphas: list[Alpha]
    kappas: list[Kappa]
    people: list[Person]


def measure(answers: Iterable[AnswerRow], flags: Iterable[FlagRow] = ()) -> Agreement:
    """The figures of answers, which come in the order they were given, over all categories and in each."""
    by_category: dict[str, list[AnswerRow]] = {"": []}
    checks: dict[str, list[AnswerRow]] = defaultdict(list)
    for answer in answers:
        if answer.gold is not None:
            checks[answer.who].append(answer)
        by_category[""].append(answer)
        if answer.category:
            by_category.setdefault(answer.category, []).append(answer)
    late = {row.answer for rows in checks.values() for row in rows[len(rows) // CHECKS * CHECKS :]}
    flagged = Counter((flag.who, category) for flag in flags for category in {"", flag.category})
    alphas, kappas, people = [], [], []
    for category in sorted(by_category):
        rows = by_category[category]
        items: dict[str, list[AnswerRow]] = defaultdict(list)
        for row in rows:
            if row.origin != "adjudication" and row.answer not in late:
                items[row.item].append(row)
        several = [one for one in items.values() if len(one) > 1]
        alphas.append(_alphas(category, several))
        kappas += _kappas(category, several)
        whose: dict[str, list[AnswerRow]] = defaultdict(list)
        for row in rows:
            whose[row.who].append(row)
        names = sorted({*whose, *(who for who, where in flagged if where == category)})
        people += [_person(who, category, whose[who], several, late, flagged[who, category]) for who in names]
    return Agreement(alphas, kappas, people)


def alpha(
    items: Iterable[Sequence[str | int]], values: Sequence[str | int], level: Literal["nominal", "ordinal"]
) -> float | None:
    """Krippendorff's alpha of the values that several people gave to each item; None where it is not defined.

    `values`: all there are, in their order.
    """
    place = {value: k for k, value in enumerate(values)}
    counts = np.array([np.bincount([place[v] for v in one], minlength=len(values)) for one in items if len(one) > 1])
    if len(counts) == 0 or np.count_nonzero(counts.sum(axis=0)) < 2:
        return None
    return float(krippendorff.alpha(value_counts=counts, value_domain=range(len(values)), level_of_measurement=level))


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of what two people said of the same items; None where chance alone would have them agree.

    Source: J. Cohen, A coefficient of agreement for nominal scales (1960).
    """
    n = len(pairs)
    ones, others = (Counter(said) for said in zip(*pairs, strict=True))
    observed = sum(one == other for one, other in pairs) / n
    expected = sum(ones[value] * others[value] for value in ones) / n**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def share(k: int, n: int) -> Share:
    """k of n with its interval. Source: E. B. Wilson, Probable inference (1927)."""
    if n == 0:
        return Share(k, n, None, None, None)
    interval = binomtest(k, n).proportion_ci(method="wilson")
    return Share(k, n, k / n, float(interval.low), float(interval.high))


def _alphas(category: str, items: Sequence[Sequence[AnswerRow]]) -> Alpha:
    points = [[point for row in one if (point := scale(row.choice, row.swapped)) is not None] for one in items]
    return Alpha(
        category,
        len(items),
        sum(map(len, items)),
        alpha([[row.verdict for row in one] for one in items], VERDICTS, "nominal"),
        alpha(points, SCALE, "ordinal"),
    )


def _kappas(category: str, items: Iterable[Sequence[AnswerRow]]) -> list[Kappa]:
    both: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for one in items:
        for a, b in combinations(sorted(one, key=lambda row: row.who), 2):
            both[a.who, b.who].append((a.verdict, b.verdict))
    return [
        Kappa(a, b, category, len(said), sum(x == y for x, y in said) / len(said), kappa(said))
        for (a, b), said in sorted(both.items())
    ]


def _person(
    who: str,
    category: str,
    rows: Sequence[AnswerRow],
    several: Iterable[Sequence[AnswerRow]],
    late: Container[int],
    flags: int,
) -> Person:
    theirs = [[row.verdict for row in one] for one in several if any(row.who == who for row in one)]
    gold = [row.verdict == row.gold for row in rows if row.gold is not None and row.answer not in late]
    # What was answered elsewhere does not say which candidate was on the left.
    sides = [side(row.verdict, row.swapped) for row in rows if row.origin != "imported"]
    left, sided = sides.count("left"), sum(one != UNDECIDABLE for one in sides)
    seconds = [row.seconds for row in rows if row.seconds is not None]
    return Person(
        who=who,
        category=category,
        answers=len(rows),
        alpha=alpha(theirs, VERDICTS, "nominal"),
        gold=share(sum(gold), len(gold)),
        left=share(left, sided),
        side_p=float(binomtest(left, sided).pvalue) if sided else None,
        median_seconds=median(seconds) if seconds else None,
        per_hour=3600 * len(seconds) / sum(seconds) if sum(seconds) else None,
        undecidable=sum(row.verdict == UNDECIDABLE for row in rows),
        flags=flags,
    )
