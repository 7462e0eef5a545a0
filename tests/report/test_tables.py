"""Tables: every number that could mislead stands beside what qualifies it."""

from rich.console import Console

from skyrm_jax.eval.curves import Curve
from skyrm_jax.eval.figures import Figure, Result
from skyrm_jax.report.tables import print_curve, print_facts, print_result


def printed(function, *arguments) -> str:  # type: ignore[no-untyped-def]
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as capture:
        function(console, *arguments)
    return capture.get()


def test_result_shows_intervals_ties_totals_and_what_is_missing() -> None:
    figures = {
        "Math [1]": Figure(76.789, 64.3, 87.5, 56, 43, 2),
        "Shared": Figure(44.3, 40.0, 50.0, 100, 1234.0 + 1 / 3, 1),
        "Mean": Figure(62.5, 50.0, 70.0, 1350, None, 3),
    }
    text = printed(print_result, "Bench", Result({"part": figures}, ("part", "Mean"), ["0 of 9 [x] pairs"], ["note"]))
    math, mean = (next(line.split() for line in text.splitlines() if name in line) for name in ("Math", "Mean"))
    assert math == ["Math", "[1]", "76.79", "64.3", "to", "87.5", "43", "2", "56"]
    assert mean == ["Mean", "62.50", "50.0", "to", "70.0", "3", "1,350"]
    assert ["44.30", "40.0", "to", "50.0", "1,234.33", "1", "100"] in [line.split()[1:] for line in text.splitlines()]
    assert "PARTIAL" in text
    assert "0 of 9 [x] pairs" in text
    assert "note" in text


def test_curve_and_facts() -> None:
    text = printed(
        print_curve, Curve([1, 2], [50, 70.126], [45, 65], [55, 75], [50, 90], [50, 50], [9, 4], 9, 0.02, 0.01, 0.03)
    )
    assert ["2", "70.13", "65.0", "to", "75.0", "90.00", "50.00", "4"] in [line.split() for line in text.splitlines()]
    text = printed(print_facts, "Rewards from", {"a": {"b": 1, "c": None}, "d": "[red]x"})
    assert [line.strip() for line in text.splitlines() if line] == ["Rewards from", "a.b: 1", "d: [red]x"]
