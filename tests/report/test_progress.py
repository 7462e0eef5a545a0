"""The progress display, on a terminal and where nobody watches a bar."""

from collections.abc import Iterable
from io import StringIO

import pytest
from rich.console import Console

from skyrm_jax.report import progress


class Clock:
    """The console's time, set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(terminal: bool, total: int, done: int, advances: Iterable[tuple[float, int]]) -> str:
    """What is printed while so many things are finished after so many seconds more."""
    clock, out = Clock(), StringIO()
    console = Console(file=out, force_terminal=terminal, color_system=None, width=100, get_time=clock)
    with progress.progress(console, "set", total, done) as advance:
        for seconds, finished in advances:
            clock.now += seconds
            advance(finished)
    return out.getvalue()


@pytest.mark.parametrize(("quiet", "lines"), [(1e9, []), (-1.0, ["set: 3 of 5", "set: 5 of 5"])])
def test_lines_instead_of_a_bar(monkeypatch: pytest.MonkeyPatch, quiet: float, lines: list[str]) -> None:
    monkeypatch.setattr(progress, "QUIET", quiet)
    assert shown(False, 5, 0, [(0, 3), (0, 2)]).splitlines() == lines


def test_lines_say_how_long_the_rest_takes() -> None:
    # 20 in 40 seconds, too seldom for a speed of the last half minute; what was done before took no time.
    lines = shown(False, 4000, 1000, [(40, 20), (40, 20), (5, 0), (40, 20), (40, 2940)]).splitlines()
    assert lines == [
        "set: 1,020 of 4,000",
        "set: 1,040 of 4,000, ETA 1:38:40",
        "set: 1,060 of 4,000, ETA 1:44:08",
        "set: 4,000 of 4,000",
    ]


def test_a_bar_says_it_too() -> None:
    assert "1040/4000 ETA 1:38:40" in shown(True, 4000, 1000, [(40, 20), (40, 20)])
