"""Tables: figures against arithmetic, their intervals, and the difference of two models on the same comparisons."""

import numpy as np
import pytest

from skyrm_jax.eval.statistics import bootstrap, ratio
from skyrm_jax.eval.table import Difference, Table

ONE, TWO, MEAN = ("parts", "one"), ("parts", "two"), ("parts", "mean")


def halves(right: np.ndarray, unit: np.ndarray | None = None) -> Table:
    """Accuracy of the first half of the comparisons, of the second, and the mean of the two."""
    n = len(right)
    first = np.arange(n) < n // 2
    table = Table(n, unit)
    for key, members in ((ONE, first), (TWO, ~first)):
        table.accuracy(key, members, right, np.zeros(n))
    table.weighted(MEAN, [ONE, TWO])
    return table


def correlated(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """What two models have right that differ on a tenth of the comparisons."""
    rng = np.random.default_rng(0)
    first = rng.random(n) < 0.7
    return first, np.where(rng.random(n) < 0.1, ~first, first)


def width(one: Difference) -> float:
    return one.high - one.low


def test_figures_and_what_they_rest_on() -> None:
    table = Table(5)
    points, of, ties = np.array([2, 0, 1, 0, 3]), np.array([2, 2, 3, 0, 3]), np.array([0, 1, 2, 0, 1])
    assert table.ratio(("a", "pairs"), points, of, ties) == ("a", "pairs")
    table.accuracy(("a", "share"), np.array([1, 1, 1, 0, 0], bool), np.array([0.5, 0, 1, 1, 1]), ties)
    table.weighted(("b", "sum"), {("a", "pairs"): 3.0, ("a", "share"): 1.0})
    table.ratio(("a", "no count"), points / 3, of > 0, counted=False)
    table.weighted(("b", "once"), [("a", "pairs"), ("a", "share")], of=[("a", "pairs")])
    table.weighted(("b", "more"), [("b", "once"), ("a", "share")])
    result = table.result(("b", "sum"))
    pairs, share, uncounted = (result.sections["a"][name] for name in ("pairs", "share", "no count"))
    whole = result.sections["b"]["sum"]
    assert [figure.value for figure in (pairs, share, whole)] == pytest.approx([60, 50, 57.5])
    assert (pairs.correct, pairs.ties, pairs.total) == (6, 4, 10)
    assert (share.correct, share.ties, share.total) == (1.5, 2, 3)  # of a comparison the tie counts, not how many
    assert (whole.correct, whole.ties, whole.total) == (None, 6, 13)
    assert (uncounted.correct, uncounted.ties, uncounted.total) == (None, None, 4)
    once, more = result.sections["b"]["once"], result.sections["b"]["more"]
    assert (once.value, once.ties, once.total) == (pytest.approx(55), 4, 10)
    assert (more.value, more.ties, more.total) == (pytest.approx(52.5), 6, 13)
    assert result.headline == ("b", "sum")
    assert list(result.sections) == ["a", "b"]


def test_intervals_hold_the_values_and_are_those_of_the_binomial() -> None:
    right = np.arange(800) % 10 < 7
    figures = halves(right).result().sections["parts"]
    for name, size in (("one", 400), ("two", 400), ("mean", 800)):
        figure, half = figures[name], 196 * np.sqrt(0.7 * 0.3 / size)
        assert figure.low < figure.value < figure.high
        assert (figure.low, figure.high) == pytest.approx((70 - half, 70 + half), abs=0.8)


def test_weights_are_normalised_over_parts_that_rest_on_something() -> None:
    table = Table(4)
    none, some = np.zeros(4, bool), np.array([1, 1, 0, 0], bool)
    keys = [("s", "absent"), ("s", "here"), ("s", "there")]
    for key, members in zip(keys, (none, some, ~some), strict=True):
        table.accuracy(key, members, np.array([1, 1, 1, 0]), np.zeros(4))
    weights = dict(zip(keys, (10.0, 3.0, 1.0), strict=True))
    table.weighted(("s", "normalised"), weights)
    table.weighted(("s", "sum"), weights, normalised=False)
    table.weighted(("s", "less"), {keys[1]: 1.0, keys[2]: -1.0}, normalised=False)
    table.weighted(("s", "nothing"), [keys[0]])
    table.weighted(("s", "mean of a mean"), [("s", "nothing"), ("s", "less")])
    result = table.result(keys[0])
    found = {name: figure.value for name, figure in result.sections["s"].items()}
    # Over all weights "normalised" would be 25.
    assert found == pytest.approx(
        {
            "here": 100,
            "there": 50,
            "normalised": 87.5,
            "sum": 350,
            "less": 50,
            "mean of a mean": 50,
        }
    )
    assert result.headline is None


def test_a_table_less_itself_is_exactly_nothing() -> None:
    right, _ = correlated()
    differences = halves(right).less(halves(right))[0]
    assert differences == {"parts": dict.fromkeys(("one", "two", "mean"), Difference(0.0, 0.0, 0.0))}


def test_differences_are_paired() -> None:
    first, second = correlated()
    ours, theirs = halves(first), halves(second)
    differences = ours.less(theirs)[0]["parts"]
    a, b = ours.result().sections["parts"], theirs.result().sections["parts"]
    for name, one in differences.items():
        assert one.value == pytest.approx(a[name].value - b[name].value, abs=1e-12)
        assert one.low <= one.value <= one.high
        unpaired = np.hypot(a[name].high - a[name].low, b[name].high - b[name].low)
        assert width(one) < 0.6 * unpaired
        back = theirs.less(ours)[0]["parts"][name]
        assert (back.value, back.low, back.high) == pytest.approx((-one.value, -one.high, -one.low), abs=1e-9)
    # The mean of the halves is the mean of all, whose difference has the error of n paired differences.
    error = 100 * np.std(first.astype(float) - second) / np.sqrt(len(first))
    assert width(differences["mean"]) == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_the_comparisons_of_a_unit_are_drawn_together() -> None:
    # 100 units of four alike: the interval is that of 100. Units need not lie together, nor be numbered from 0.
    right = np.arange(100) % 2 == 0
    order = np.random.default_rng(0).permutation(400)
    unit = np.tile(np.arange(100), 4)[order]
    members = np.ones(400, bool)

    def interval(drawn: np.ndarray | None) -> float:
        table = Table(400, drawn)
        table.accuracy(("s", "all"), members, right[unit], np.zeros(400))
        figure = table.result().sections["s"]["all"]
        assert (figure.value, figure.correct, figure.total) == (50, 200, 400)
        return figure.high - figure.low

    together, alone = interval(7 * unit + 3), interval(None)
    assert together == pytest.approx(2 * 196 * np.sqrt(0.25 / 100), rel=0.06)
    assert alone == pytest.approx(together / 2, rel=0.06)


def test_intervals_are_those_of_the_bootstrap_of_sums() -> None:
    points, of = np.array([2.0, 0, 1, 4]), np.array([2.0, 1, 3, 5])
    table = Table(4)
    table.ratio(("s", "x"), points, of)
    figure = table.result().sections["s"]["x"]
    low, high = bootstrap(lambda counts: ratio(counts, points[:, None], of[:, None]), 4)
    assert (figure.low, figure.high) == (100 * low[0], 100 * high[0])


def test_tables_that_do_not_belong_together() -> None:
    right, _ = correlated(8)
    table = halves(right)
    other = Table(8)
    other.accuracy(ONE, np.ones(8, bool), right, np.zeros(8))
    for one in (other, halves(right[:6]), halves(right, np.arange(8) // 2)):
        with pytest.raises(ValueError, match="the tables describe different figures"):
            table.less(one)
    with pytest.raises(ValueError, match=r"\('parts', 'one'\) is described twice"):
        table.accuracy(ONE, right, right, right)
    with pytest.raises(ValueError, match="no comparison"):
        Table(0)
    assert len(table) == 8
