"""What pairs say beside who won: biases towards length and markdown, and calibration."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from skyrm_jax.comparison import Comparison, Message
from skyrm_jax.eval.calibration import calibration
from skyrm_jax.eval.figures import Rewards
from skyrm_jax.eval.heldout import decided
from skyrm_jax.eval.statistics import Interval, bootstrap, estimate, ratio, summed

MARKDOWN = re.compile(r"^\s{0,3}(?:#{1,6}\s|[-*+]\s|\d+[.)]\s|```|>\s)|\*\*[^*\n]+\*\*|`[^`\n]+`", re.MULTILINE)
"""A heading, list item, fence, quotation, bold or code span."""


@dataclass(frozen=True, slots=True)
class Bias:
    """How rewards go with a property of the responses, over pairs; intervals are 95 %, by comparison.

    Attributes:
        correlation: Pearson's, of the difference in reward with that in the property, chosen less rejected; None where
            one of the two does not vary.
        low, high: its interval.
        more: accuracy in percent where the chosen response has more of the property, and on how many pairs.
        less: the same where it has less.
        gap: the first accuracy less the second, in points; None where there is but one.
        intervals: of `more`, `less` and `gap`, those that there are.
    """

    correlation: float | None
    low: float | None
    high: float | None
    more: tuple[float, int] | None
    less: tuple[float, int] | None
    gap: float | None
    intervals: dict[str, Interval]


def characters(response: tuple[Message, ...]) -> int:
    """The length of a response."""
    return sum(len(message.content) for message in response)


def markdown(response: tuple[Message, ...]) -> int:
    """How many elements of markdown a response has."""
    return sum(len(MARKDOWN.findall(message.content)) for message in response)


def describe_pairs(comparisons: Sequence[Comparison], rewards: Rewards) -> dict[str, Any] | None:
    """Biases and calibration over all decided pairs, as plain values; None without any.

    `length` and `markdown` are None for comparisons without text.
    """
    of, difference, longer, richer = [], [], [], []
    has_text = any(response for c in comparisons for response in c.responses)
    for i, (comparison, reward) in enumerate(zip(comparisons, rewards, strict=True)):
        lengths = [characters(response) for response in comparison.responses]
        elements = [markdown(response) for response in comparison.responses]
        for winner, loser in decided(comparison.preferences):
            of.append(i)
            difference.append(float(reward[winner]) - float(reward[loser]))
            longer.append(lengths[winner] - lengths[loser])
            richer.append(elements[winner] - elements[loser])
    if not of:
        return None
    d = np.array(difference)
    return {
        "pairs": len(d),
        "ties": int((d == 0).sum()),
        "length": asdict(bias(np.array(of), d, np.array(longer))) if has_text else None,
        "markdown": asdict(bias(np.array(of), d, np.array(richer))) if has_text else None,
        "calibration": asdict(calibration(d, np.array(of))),
    }


def bias(comparison: np.ndarray, difference: np.ndarray, property_: np.ndarray) -> Bias:
    """The bias over pairs: i[P] their comparison, f[P] difference in reward, f[P] difference in the property."""
    _, unit = np.unique(comparison, return_inverse=True)
    x, y = _standard(property_), _standard(difference)
    columns = summed(unit, (np.ones_like(x), x, y, x * x, y * y, x * y))
    sides = property_ > 0, property_ < 0
    members, right = summed(unit, sides), summed(unit, [side & (difference > 0) for side in sides])

    def rule(counts: np.ndarray) -> np.ndarray:
        n, sx, sy, sxx, syy, sxy = (counts @ columns).T
        spreads = n * sxx - sx**2, n * syy - sy**2
        varies = np.minimum(*spreads) > 1e-12 * n**2
        below = np.sqrt(np.where(varies, spreads[0] * spreads[1], 1.0))
        r = np.where(varies, np.clip((n * sxy - sx * sy) / below, -1, 1), np.nan)
        more, less = 100.0 * ratio(counts, right, members).T
        return np.stack([r, more, less, more - less], axis=1)

    size = len(columns)
    values, bounds = estimate(rule, size), np.transpose(bootstrap(rule, size))
    r, more, less, gap = (float(value) if np.isfinite(value) else None for value in values)
    (low, high), *others = bounds.tolist()
    return Bias(
        correlation=r,
        low=None if r is None else low,
        high=None if r is None else high,
        more=None if more is None else (more, int(sides[0].sum())),
        less=None if less is None else (less, int(sides[1].sum())),
        gap=gap,
        intervals={
            name: (begin, end)
            for name, value, (begin, end) in zip(("more", "less", "gap"), (more, less, gap), others, strict=True)
            if value is not None
        },
    )


def _standard(values: np.ndarray) -> np.ndarray:
    """Centred, and 1 at most: a correlation knows no units and no origin, sums of squares do."""
    centred = np.asarray(values, np.float64) - np.mean(values)
    return centred / (np.abs(centred).max() or 1.0)
