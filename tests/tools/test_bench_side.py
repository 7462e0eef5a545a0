"""The processes that the benchmarks of scoring and training compare."""

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("script", ["bench_scoring_peer.py", "bench_training_sides.py"])
@pytest.mark.parametrize("asked", [True, False])
def test_a_side_that_fails_is_quoted(tool: Any, tmp_path: Path, script: str, asked: bool) -> None:
    side = tool("bench_side").Side(script, ["nobody", "{}"], tmp_path / "log", {})
    with pytest.raises(SystemExit, match=r"(?s)'nobody' ended.*KeyError: 'nobody'"), side:
        side.ask(do="take") if asked else side.answer()
