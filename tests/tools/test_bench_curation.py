"""The benchmark of curation at a tiny size: what is planted is found, and a wrong account ends it."""

import json
from pathlib import Path
from typing import Any

import pytest


def test_what_is_planted_is_found(tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = tool("bench_curation")
    out = tmp_path / "out" / "figures.json"
    bench.main(["--rows", "800", "--scratch", str(tmp_path), "--json", str(out)])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # what was made is gone
    found = json.loads(out.read_text())
    assert found["rows"] == found["funnel"]["records"] == 800 and found["funnel"]["kept"] == 8 * 89
    assert found["preprocess_rows_per_second"] == pytest.approx(800 / found["preprocess_seconds"])
    assert 0.05 < found["preprocess_peak_gib"] < 4 and 0.05 < found["decisions_peak_gib"] < 4
    assert sum(found["decided"].values()) == 8 * 89 and set(found["decided"]) == {"kept", "flipped", "discarded"}
    assert "preprocess_peak_gib" in capsys.readouterr().out


def test_a_wrong_account_ends_it(tool: Any, tmp_path: Path) -> None:
    bench = tool("bench_curation")
    planted = {"records": 400, "bad": 1, "undecided": 3, "identical_responses": 0, "pairs": 396, "identical": 0}
    planted |= {"duplicate": 16, "contradictory": 8, "contaminated": 8, "near_duplicate": 8, "kept": 356}
    assert bench.account(400) == planted
    bench.check(planted, planted)
    for name in planted:
        with pytest.raises(SystemExit, match=f"account is wrong.*{name}"):
            bench.check(planted | {name: planted[name] + 1}, planted)


def test_memory_is_that_of_all_processes_below(tool: Any) -> None:
    import os
    import subprocess
    import sys

    bench = tool("bench_curation")
    hold = "import time; held = bytearray(300 << 20); print(1, flush=True); time.sleep(60)"
    before = bench.memory(os.getpid())
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert bench.memory(os.getpid()) - before > 290 << 20
        process.kill()
