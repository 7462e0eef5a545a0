"""Several processes of one command."""

import sys
from pathlib import Path

import pytest
from local_processes import Processes

LOUD = """
import os, sys, time
from pathlib import Path
met = Path(sys.argv[1])
if os.environ["JAX_PROCESS_ID"] == "1":
    print("x" * 1_000_000, flush=True)
    met.touch()
while not met.exists():
    time.sleep(0.01)
"""


def test_one_that_says_much_is_not_waited_for_by_the_others(tmp_path: Path) -> None:
    with Processes([sys.executable, "-c", LOUD, str(tmp_path / "met")], 2) as processes:
        ends = processes.ends(60)
    assert [(code, len(said)) for code, said in ends] == [(0, 0), (0, 1_000_001)]


def test_what_they_said_is_told_of_those_that_do_not_end() -> None:
    stuck = "import os, time; print('here is', os.environ['JAX_PROCESS_ID'], flush=True); time.sleep(600)"
    with (
        pytest.raises(RuntimeError, match=r"(?s)not all of 2 processes ended in 5 s.*here is 0.*here is 1"),
        Processes([sys.executable, "-c", stuck], 2) as processes,
    ):
        processes.ends(5)
