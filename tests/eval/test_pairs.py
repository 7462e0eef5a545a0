"""Biases towards length and markdown against numpy's correlation, and what is described of pairs."""

import numpy as np
import pytest

from skyrm_jax.comparison import Comparison, Message, Preference
from skyrm_jax.eval.calibration import calibration
from skyrm_jax.eval.pairs import bias, characters, describe_pairs, markdown


def said(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)


def test_correlation_is_numpys_and_its_interval_fishers() -> None:
    rng = np.random.default_rng(0)
    longer = rng.integers(-900, 900, 300)
    for noise in (1.0, 10.0, 30.0):
        difference = 5 + 0.01 * longer + noise * rng.normal(size=300)
        found = bias(np.arange(300), difference, longer)
        r = np.corrcoef(difference, longer)[0, 1]
        assert found.correlation == pytest.approx(r, abs=1e-12)
        fisher = np.tanh(np.arctanh(r) + np.array([-1.96, 1.96]) / np.sqrt(297))
        assert (found.low, found.high) == pytest.approx(tuple(fisher), abs=0.03)
    exact = bias(np.arange(300), 5 - 0.01 * longer, longer)
    assert (exact.correlation, exact.low, exact.high) == pytest.approx((-1, -1, -1), abs=1e-12)


def test_units_and_origins_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(-50, 50, 80), rng.normal(size=80)
    plain = bias(np.arange(80), y, x)
    for scale, origin in ((1e-6, 0.0), (1e6, 0.0), (1.0, 1e5)):
        again = bias(np.arange(80), scale * y + origin, x)
        assert (again.correlation, again.low, again.high) == pytest.approx(
            (plain.correlation, plain.low, plain.high), abs=1e-6
        )
    assert bias(np.arange(80), -y, x).correlation == pytest.approx(-(plain.correlation or 0), abs=1e-12)


@pytest.mark.parametrize(
    ("difference", "longer"),
    [([0.3] * 7, [1, 2, 3, 4, 5, 6, 1]), ([0.1, 0.2, 0.3], [7, 7, 7]), ([0.1], [2]), ([0.0, 0.0], [0, 0])],
)
def test_no_correlation_where_nothing_varies(difference: list[float], longer: list[int]) -> None:
    found = bias(np.arange(len(longer)), np.array(difference), np.array(longer))
    assert (found.correlation, found.low, found.high) == (None, None, None)


def test_accuracy_where_the_chosen_one_has_more_and_less() -> None:
    # A tie is wrong; pairs that have as much are on neither side.
    found = bias(np.arange(6), np.array([1.0, 0.0, 2.0, -1.0, 3.0, 5.0]), np.array([4, 1, 2, -3, -1, 0]))
    assert found.more == pytest.approx((200 / 3, 3))
    assert found.less == (50.0, 2)
    found = bias(np.arange(2), np.array([1.0, 2.0]), np.array([4, 0]))
    assert (found.more, found.less, found.gap) == ((100.0, 1), None, None)
    assert found.intervals == {"more": (100.0, 100.0)}


def test_accuracies_and_their_gap_have_intervals() -> None:
    # 400 comparisons with more, of which 90 % are right, and 400 with less, of which 60 % are.
    right, more = np.arange(800) % 10 < np.repeat([9, 6], 400), np.repeat([3, -3], 400)
    found = bias(np.arange(800), np.where(right, 1.0, -1.0), more)
    assert (found.more, found.less, found.gap) == ((90.0, 400), (60.0, 400), pytest.approx(30))
    errors = {"more": (90, np.sqrt(0.09 / 400)), "less": (60, np.sqrt(0.24 / 400)), "gap": (30, np.sqrt(0.33 / 400))}
    for name, (value, error) in errors.items():
        half = 196 * error
        assert found.intervals[name] == pytest.approx((value - half, value + half), abs=0.15 * half)
    # Pairs of one comparison are drawn together: of both kinds in each, the gap hardly varies.
    together = bias(np.tile(np.arange(400), 2), np.repeat([1.0, 0.0], 400), more)
    assert together.intervals["gap"] == (100.0, 100.0)


def test_pairs_of_one_comparison_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), rng.normal(size=50)
    alone = bias(np.arange(50), y, x)
    copies = bias(np.tile(np.arange(50), 20), np.tile(y, 20), np.tile(x, 20))
    assert (copies.correlation, copies.low, copies.high) == pytest.approx((alone.correlation, alone.low, alone.high))
    apart = bias(np.arange(1000), np.tile(y, 20), np.tile(x, 20))
    assert apart.low is not None and apart.high is not None and alone.low is not None and alone.high is not None
    assert apart.high - apart.low < 0.4 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("plain text, 2 * 3 - 1 = 5, #1, a_b", 0),
        ("# Title\n\ntext\n\n### More", 2),
        ("- one\n* two\n+ three\n  1. four\n2) five", 5),
        ("**bold** and `code` and ** not bold", 2),
        ("```python\nx = 1\n```", 2),
        ("> quoted\n>not by this count", 1),
        ("**bold\nacross lines**", 0),
    ],
)
def test_elements_of_markdown(text: str, elements: int) -> None:
    assert markdown(said(text)) == elements
    assert characters(said(text)) == len(text)


def test_pairs_are_those_that_are_decided_the_way_they_are() -> None:
    texts = ["aaaa", "**b**bbbb", "c"]
    first = Comparison.of("?", texts, [Preference(0, 1), Preference(1, 2, p=0.2), Preference(0, 2, p=0.5)])
    second = Comparison.of("?", ["dd", "e"], chosen=0)
    third = Comparison.of("?", ["dd", "e"])
    rewards = [np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0]), np.array([5.0, 1.0])]
    found = describe_pairs([first, second, third], rewards)
    assert found is not None
    # (0, 1): 2, 5 shorter, less markdown; (2, 1): 1, 8 shorter, less markdown; the second's: 0, 1 longer.
    d = np.array([2.0, 1.0, 0.0])
    assert (found["pairs"], found["ties"]) == (3, 1)
    assert found["length"]["correlation"] == pytest.approx(np.corrcoef(d, [-5, -8, 1])[0, 1])
    assert (found["length"]["more"], found["length"]["less"]) == ((0.0, 1), (100.0, 2))
    assert found["markdown"]["correlation"] == pytest.approx(np.corrcoef(d, [-1, -1, 0])[0, 1])
    assert (found["markdown"]["more"], found["markdown"]["less"]) == (None, (100.0, 2))
    assert found["calibration"]["ece"] == calibration(d).ece
    assert found["calibration"]["log_loss"] == calibration(d).log_loss
    assert found["calibration"]["intervals"] == calibration(d, np.array([0, 0, 1])).intervals


def test_without_text_or_pairs() -> None:
    stored = Comparison((), ((), ()), (Preference(0, 1),))
    found = describe_pairs([stored], [np.array([1.0, 0.0])])
    assert found is not None
    assert (found["length"], found["markdown"]) == (None, None)
    assert found["calibration"]["log_loss"] == pytest.approx(np.log1p(np.exp(-1)))
    assert describe_pairs([Comparison.of("?", ["a", "b"])], [np.zeros(2)]) is None
