"""Killed again and again, a curation ends as one that was not, and repeats no call that had been answered."""

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fake_openai import Body, FakeOpenAI
from rich.console import Console
from small_curation import config, files_of, people, reply, write_data

from skyrm_jax.curate.config import Stage1
from skyrm_jax.curate.run import run

HERE = Path(__file__).parent

PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from rich.console import Console
from small_curation import config, people
from skyrm_jax.curate.config import Stage1
from skyrm_jax.curate.run import run
run(config(Path(sys.argv[1]), sys.argv[2], stage1=Stage1(iterations=1, first=40, pairs=24)), Console(quiet=True), people)
"""


def distinct(bodies: list[Body]) -> Counter[str]:
    return Counter(json.dumps(body, sort_keys=True) for body in bodies)


@pytest.mark.full
def test_kills_change_nothing_and_no_answer_is_paid_twice(tmp_path: Path) -> None:
    stage1 = Stage1(iterations=1, first=40, pairs=24)
    for name in ("whole", "killed"):
        write_data(tmp_path / name, 120)
    with FakeOpenAI(reply) as server:
        run(config(tmp_path / "whole", server.url, stage1=stage1), Console(quiet=True), people)
        expected = distinct(server.answered)
        url = server.url
        server.bodies.clear()
        server.answered.clear()
        out = tmp_path / "killed" / "out"
        points: list[Any] = [
            lambda: (out / "pool").is_dir(),
            lambda: len(server.answered) >= 30,
            lambda: len(server.answered) >= 150,
            lambda: (out / "iterations" / "01" / "model" / "run" / "checkpoints").is_dir(),
            lambda: (out / "iterations" / "01" / "selected.parquet").is_file(),
            lambda: (out / "stage2" / "scores-best").is_dir(),
            lambda: (out / "stage2" / "decisions").is_dir(),
        ]
        kills = 0
        while True:
            program = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    PROGRAM,
                    str(tmp_path / "killed"),
                    url,
                    str(HERE),
                    str(HERE.parents[1] / "tools"),
                ],
            )
            ended = threading.Event()
            while program.poll() is None:
                if points and points[0]():
                    program.kill()
                    points.pop(0)
                    kills += 1
                    break
                ended.wait(0.02)
            if program.wait() == 0:
                break
            assert program.returncode == -9
    assert kills >= 6
    killed, whole = files_of(out), files_of(tmp_path / "whole" / "out")
    assert killed.keys() == whole.keys()
    assert [name for name in whole if killed[name] != whole[name]] == []
    again = distinct(server.answered)
    assert again.keys() == expected.keys()
    # Under way at a kill there were at most as many calls as the two annotators may have.
    assert again.total() - expected.total() <= kills * 8
