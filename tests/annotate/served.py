"""The server as a process of its own."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Served:
    """A server that answers at `url`."""

    process: subprocess.Popen[str]
    url: str

    def kill(self) -> None:
        """Ends it as a crash does."""
        self.process.kill()
        self.process.wait(60)

    def stop(self) -> int:
        """Asks it to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def start(store: Path, *options: str) -> Served:
    """A server of a store, once it listens."""
    command = [sys.executable, "-m", "skyrm_jax.annotate", "--store", str(store), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+:\d+", line)
    assert found, f"the server did not start: {line!r}"
    return Served(process, found[0])


@contextmanager
def serving(store: Path, *options: str) -> Iterator[Served]:
    """A server for the time of the block."""
    served = start(store, *options)
    try:
        yield served
    finally:
        if served.process.poll() is None:
            served.kill()
