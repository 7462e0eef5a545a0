"""The progress display, where nobody watches a bar."""

import pytest
from rich.console import Console

from skyrm_jax.report import progress


@pytest.mark.parametrize(("quiet", "lines"), [(1e9, []), (-1.0, ["set: 3 of 5", "set: 5 of 5"])])
def test_lines_instead_of_a_bar(monkeypatch: pytest.MonkeyPatch, quiet: float, lines: list[str]) -> None:
    monkeypatch.setattr(progress, "QUIET", quiet)
    console = Console(force_terminal=False)
    with console.capture() as capture, progress.progress(console, "set", 5) as advance:
        advance(3)
        advance(2)
    assert capture.get().splitlines() == lines
