"""A process that is killed or told to stop loses no answer that it had, and the next one pays for none of them again."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_openai import Body, FakeOpenAI, annotator, echo, questions

from skyrm_jax.curate.annotators import Annotator, Calls, Tally, summary
from skyrm_jax.errors import RESTART, UserError

COUNT, BEFORE, AT_ONCE = 40, 12, 4

CHILD = """
import signal
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
from skyrm_jax.curate.annotators import calls
from skyrm_jax.errors import run_command
from test_annotators_restart import ask

calls.GRACE = float(sys.argv[4])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.exit(run_command(lambda _: ask(Path(sys.argv[2]), sys.argv[3])))
"""


def ask(folder: Path, url: str) -> list[Any]:
    """What is interrupted here: questions of which one in four gets an answer that is not valid."""
    one = Annotator("a", "a", url, concurrency=AT_ONCE, price_out=1.0)
    with Calls(folder / "calls", [one]) as calls:
        answers = calls.ask(questions(COUNT), lambda text: text if int(text[-1], 16) % 4 else None, 3)
        values = [[answer.value, answer.error, answer.attempts] for answer in answers]
    (folder / "values.json").write_text(json.dumps(values))
    return values


class Blocking(FakeOpenAI):
    """Stops answering after BEFORE answers, until it is `released`; `blocked` is set when AT_ONCE requests wait."""

    def __init__(self) -> None:
        super().__init__(self._reply)
        self.released, self.blocked = threading.Event(), threading.Event()
        self._count, self._waiting = 0, 0

    def _reply(self, body: Body) -> str:
        with self.lock:
            self._count += 1
            waits = self._count > BEFORE and not self.released.is_set()
            self._waiting += waits
            if self._waiting == AT_ONCE:
                self.blocked.set()
        if waits:
            self.released.wait(60)
        return echo(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocking]:
    monkeypatch.setenv("no_proxy", "*")
    with Blocking() as fake:
        yield fake


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Counter[str]]:
    """The values of a run that nobody stops, and how often each body is sent in it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with FakeOpenAI() as fake:
        return ask(folder, fake.url), sent(fake)


def start(folder: Path, server: FakeOpenAI, grace: float = 60.0) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", CHILD, here, str(folder), server.url, str(grace)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def sent(server: FakeOpenAI) -> Counter[str]:
    return Counter(json.dumps(body, sort_keys=True) for body in server.bodies)


def tally(folder: Path) -> Tally:
    (found,) = summary(folder / "calls")
    return found


def kept(folder: Path) -> int:
    connection = sqlite3.connect(folder / "calls" / "calls.sqlite")
    (count,) = connection.execute("SELECT count(*) FROM answers").fetchone()
    connection.close()
    return int(count)


def test_kill_9(server: Blocking, tmp_path: Path, undisturbed: tuple[list[Any], Counter[str]]) -> None:
    values, bodies = undisturbed
    child = start(tmp_path, server)
    assert server.blocked.wait(60)
    child.kill()
    child.communicate()
    assert not (tmp_path / "values.json").exists()
    assert kept(tmp_path) == BEFORE
    with Calls(tmp_path / "calls", []) as calls:  # what was under way may have been charged
        assert calls.spent == pytest.approx(tally(tmp_path).usd + AT_ONCE * 4096 / 1e6)
    server.released.set()
    assert ask(tmp_path, server.url) == values
    again = sent(server) - bodies
    assert again.total() == AT_ONCE and not bodies - sent(server)  # those under way, and nothing else, were asked twice
    account = tally(tmp_path)
    assert account.statuses["lost"] == account.retries == AT_ONCE
    assert account.unsure_usd == pytest.approx(AT_ONCE * 4096 / 1e6)
    assert account.calls == bodies.total() + AT_ONCE
    assert ask(tmp_path, server.url) == values
    assert sent(server).total() == bodies.total() + AT_ONCE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop(
    number: signal.Signals, server: Blocking, tmp_path: Path, undisturbed: tuple[list[Any], Counter[str]]
) -> None:
    values, bodies = undisturbed
    child = start(tmp_path, server)
    assert server.blocked.wait(60)
    child.send_signal(number)
    time.sleep(0.3)  # for it to hear; too short makes the test easier, not wrong
    server.released.set()
    _, said = child.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert child.returncode == RESTART
        assert said.strip() == (
            f"told to stop; every answer is kept in {tmp_path}/calls/calls.sqlite: run the same command again to go on"
        )
    else:
        assert child.returncode != 0 and "waiting for calls under way" in said
    assert not (tmp_path / "values.json").exists()
    assert kept(tmp_path) == len(server.bodies) < COUNT
    assert ask(tmp_path, server.url) == values
    assert sent(server) == bodies
    assert set(tally(tmp_path).statuses) == {"ok", "invalid"}


def test_told_to_stop_with_calls_that_do_not_end(
    server: Blocking, tmp_path: Path, undisturbed: tuple[list[Any], Counter[str]]
) -> None:
    values, bodies = undisturbed
    child = start(tmp_path, server, grace=0.2)
    assert server.blocked.wait(60)
    child.terminate()
    _, said = child.communicate(timeout=60)
    assert child.returncode == RESTART and said.startswith("told to stop") and said.count("\n") == 1
    account = tally(tmp_path)
    assert account.statuses["interrupted"] == AT_ONCE and account.unsure_usd == pytest.approx(AT_ONCE * 4096 / 1e6)
    server.released.set()
    assert ask(tmp_path, server.url) == values
    assert (sent(server) - bodies).total() == AT_ONCE


def test_another_process_has_to_wait(server: Blocking, tmp_path: Path) -> None:
    child = start(tmp_path, server)
    assert server.blocked.wait(60)
    with (
        pytest.raises(UserError, match=r"calls is being written by another process; wait for it"),
        Calls(tmp_path / "calls", [annotator(server)]) as calls,
    ):
        list(calls.ask(questions(1), lambda text: text, 1))
    assert tally(tmp_path).statuses["started"] == AT_ONCE  # looking at it is fine
    server.released.set()
    assert child.wait(60) == 0
    assert json.loads((tmp_path / "values.json").read_text())
