"""Several processes of one command on this machine, each with two CPU devices."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self


def environment(number: int, count: int, port: int, devices: int = 2) -> dict[str, str]:
    """What process `number` of `count` is told."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(number),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        # Processes other than the first take nothing from jax's cache of programs, and a few steps are not worth compiling well.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "SKYRM_HEARTBEAT_TIMEOUT": "10",
        "SKYRM_START_TIMEOUT": "60",
    }


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@dataclass
class Processes:
    """`count` processes of `command` within a `with` block, which kills what is left of them.

    Attributes:
        running: the processes, in order.
    """

    command: list[str]
    count: int
    extra: dict[str, str] = field(default_factory=dict)
    devices: int = 2
    running: list[subprocess.Popen[str]] = field(default_factory=list)
    _said: list[Future[tuple[str, str]]] = field(default_factory=list)

    def __enter__(self) -> Self:
        port = free_port()
        # All are read at once: one whose pipe is full would wait for its reader, and the others for it.
        readers = ThreadPoolExecutor(self.count, "reader")
        for number in range(self.count):
            told = {**environment(number, self.count, port, self.devices), **self.extra}
            process = subprocess.Popen(
                self.command, env=told, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            self.running.append(process)
            self._said.append(readers.submit(process.communicate))
        readers.shutdown(wait=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
        for said in self._said:
            said.result()

    def ends(self, seconds: float = 900) -> list[tuple[int, str]]:
        """(exit code, what it said) of each, once all have ended. Raises RuntimeError, with what they said, if they do not."""
        until = time.monotonic() + seconds
        try:
            codes = [process.wait(max(0.0, until - time.monotonic())) for process in self.running]
        except subprocess.TimeoutExpired:
            for process in self.running:
                process.kill()
            said = "\n".join(f"process {number}:\n{one.result()[0]}" for number, one in enumerate(self._said))
            raise RuntimeError(f"not all of {self.count} processes ended in {seconds:.0f} s\n{said}") from None
        return [(code, one.result()[0]) for code, one in zip(codes, self._said, strict=True)]


def train(config: Path, *options: str) -> list[str]:
    """The command that trains."""
    return [sys.executable, "-m", "skyrm_jax.train", "--config", str(config), *options]


def wait_for_step(out: Path, step: int, processes: Processes, seconds: float = 900) -> int:
    """Returns once the run in `out` has logged this step, or a later one; which. Raises RuntimeError if it does not."""
    file, began = out / "metrics.jsonl", time.monotonic()
    while time.monotonic() - began < seconds:
        lines = file.read_text().splitlines() if file.exists() else []
        if lines and lines[-1].endswith("}") and (at := json.loads(lines[-1])["step"]) >= step:
            return at
        if any(process.poll() is not None for process in processes.running):
            raise RuntimeError("a process ended too soon:\n" + "\n".join(said for _, said in processes.ends()))
        time.sleep(0.005)
    raise RuntimeError(f"step {step} was not reached in {seconds} s")
