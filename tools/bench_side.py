"""A side of a benchmark in a process of its own, which rests while another one works."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

DEVICES: dict[str, dict[str, str]] = {
    "cpu": {"JAX_PLATFORMS": "cpu"},
    # Both sides are alive at once: JAX must leave memory to the other one.
    "gpu": {"JAX_PLATFORMS": "cuda,cpu", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
}
"""Where the sides compute, and the environment that has ours do so."""

KEEPS_MEMORY = {
    # glibc otherwise returns every large tensor to the system, and takes it back a page at a time. Huge pages make our training
    # step a tenth faster, and TRL's neither faster nor slower once its memory is kept.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(1 << 28),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""The environment of a side that is to keep what it has allocated."""


class Side:
    """A script of this folder that answers lines of JSON with lines of JSON, until its standard input ends.

    Args:
        script: its file name.
        arguments: the side's name, and what else the script takes.
        log: where its standard error goes.
        defaults: environment variables, where the caller has not set them.
        device: one of DEVICES.
    """

    def __init__(
        self, script: str, arguments: Sequence[str], log: Path, defaults: Mapping[str, str], device: str = "cpu"
    ):
        self.name, self._log = arguments[0], log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name(script)), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**defaults, **os.environ, **DEVICES[device]},
            )

    def ask(self, **request: Any) -> dict[str, Any]:
        """What it answers to a request; raises SystemExit as `answer` does."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # of a side that ended: `answer` says so
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """What it says next; raises SystemExit with what it wrote if it ends without a word."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise SystemExit(f"the side {self.name!r} ended:\n{self._log.read_text()[-4000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate()
