"""Whatever an annotator does costs its own answers and time, and is reported; what the user must mend is an error."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from fake_openai import Body, FakeOpenAI, always, annotator, questions

from skyrm_jax.curate.annotators import Calls, Tally, client, gate, summary
from skyrm_jax.errors import UserError

GOOD = "good"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds; no proxy, no keys."""
    monkeypatch.setattr(gate, "LONGEST_BACKOFF", 0.005)
    monkeypatch.setenv("no_proxy", "*")
    for name in ("OPENAI_API_KEY", "THE_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(always(GOOD)) as fake:
        yield fake


def good(answer: str) -> str | None:
    return answer if answer == GOOD else None


def completion(message: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return {"choices": [{"index": 0, "finish_reason": finish, "message": message}], "usage": usage}


def tally_of(folder: Path, name: str) -> Tally:
    return next(tally for tally in summary(folder) if tally.annotator == name)


Fault = Callable[[FakeOpenAI], None]


def fails(failure: int | str, error: Any = None, **headers: str) -> Fault:
    def inject(server: FakeOpenAI) -> None:
        server.always_fails, server.headers = failure, headers
        if error is not None:
            server.error = error

    return inject


def says(answer: Any) -> Fault:
    def inject(server: FakeOpenAI) -> None:
        server.reply = lambda body: answer

    return inject


def error(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "code": code}}


FAULTS: dict[str, tuple[Fault, str, int, bool]] = {
    # what the server does: how, the status of its calls, how many for 12 requests (0: unknown), whether it is given up
    "is broken": (fails(500), "server_error", 0, True),
    "is overloaded": (fails(529), "server_error", 0, True),
    "breaks off": (fails("cut"), "dropped", 0, True),
    "hangs up": (fails("reset"), "dropped", 0, True),
    "hangs": (fails("hang"), "timeout", 0, True),
    "sends no JSON": (says(b"<html>hello</html>"), "garbled", 0, True),
    "sends no choices": (says({"choices": []}), "garbled", 0, True),
    "sends an error as an answer": (says({"error": {"message": "overloaded"}}), "garbled", 0, True),
    "sends a list": (says([1, 2]), "garbled", 0, True),
    "has no money": (fails(402), "exhausted", 0, True),
    "has no quota": (fails(429, error("You exceeded your current quota", "insufficient_quota")), "exhausted", 0, True),
    "wants hours": (fails(429, None, **{"Retry-After": "7200"}), "rate_limited", 0, True),
    "talks rubbish": (says("whatever"), "invalid", 24, False),
    "says nothing": (says(completion({"content": None})), "invalid", 24, False),
    "is cut short": (says(completion({"content": "because"}, "length")), "truncated", 24, False),
    "is sorry": (says("I'm sorry, but I can't help with that."), "refused", 24, False),
    "refuses": (says(completion({"content": None, "refusal": "no"})), "refused", 12, False),
    "is filtered": (says(completion({"content": "so"}, "content_filter")), "refused", 12, False),
    "filters": (fails(400, error("triggering our content management policy", "content_filter")), "refused", 12, False),
    "moderates": (fails(403, error("requires moderation and your input was flagged")), "refused", 12, False),
    "is small": (fails(400, error("This model's maximum context length is 9 tokens")), "too_long", 12, False),
    "is smaller": (fails(413), "too_long", 12, False),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_costs_the_other_nothing(fault: str, server: FakeOpenAI, tmp_path: Path) -> None:
    inject, status, calls_made, given_up = FAULTS[fault]
    said: list[str] = []
    with FakeOpenAI() as bad:
        inject(bad)
        people = [annotator(server, "b"), annotator(bad, "a", retries=1, timeout=0.3 if fault == "hangs" else 60)]
        with Calls(tmp_path / "calls", people, say=said.append) as calls:
            answers = list(calls.ask(questions(12, "a", "b"), good, 2))
            assert (calls.given_up.keys() == {"a"}) == given_up
    for answer in answers:
        assert answer.value == (GOOD if answer.annotator == "b" else None)
        assert (answer.error == "") == (answer.annotator == "b")
    assert tally_of(tmp_path / "calls", "b").statuses == {"ok": 12}
    tally = tally_of(tmp_path / "calls", "a")
    assert tally.statuses == {status: calls_made or tally.calls} and 0 < tally.calls <= 24
    words = status.replace("_", " ")
    if given_up:
        assert any(line.startswith("a is given up: ") for line in said)
        assert len(tally.notes) == 1
        assert any(answer.error.startswith("given up: ") for answer in answers) and tally.calls <= 14
    else:
        assert all(answer.error.startswith(words) for answer in answers if answer.annotator == "a")


@pytest.mark.parametrize("failure", [500, 503, 529, 408, 409, "cut", "reset"])
def test_a_passing_failure_is_tried_again(failure: int | str, server: FakeOpenAI, tmp_path: Path) -> None:
    server.failures = [failure] * 3
    with Calls(tmp_path / "calls", [annotator(server, retries=3, concurrency=1)]) as calls:
        assert [answer.value for answer in calls.ask(questions(3), good, 1)] == [GOOD] * 3
        (tally,) = calls.summary()
    assert tally.calls == 6 and tally.retries == 3 and tally.statuses["ok"] == 3


def test_tries_end(server: FakeOpenAI, tmp_path: Path) -> None:
    server.failures = [500] * 4
    with Calls(tmp_path / "calls", [annotator(server, retries=3, concurrency=1)]) as calls:
        first, second = calls.ask(questions(2), good, 5)
    assert (first.value, first.attempts, first.call) == (None, 0, "")
    assert first.error == "server error: HTTP 500 (out of luck with a)"
    assert second.value == GOOD


def test_too_many_requests_are_waited_for_by_all_and_do_not_count(server: FakeOpenAI, tmp_path: Path) -> None:
    server.failures, server.headers = [429] * 6, {"Retry-After": "0.2"}
    with Calls(tmp_path / "calls", [annotator(server, retries=0, concurrency=4)], say=lambda line: None) as calls:
        assert [answer.value for answer in calls.ask(questions(9), good, 1)] == [GOOD] * 9
        (tally,) = calls.summary()
    assert tally.statuses == {"ok": 9, "rate_limited": 6} and tally.notes == ()
    # At most four were under way when the first was refused; for all others the pause held.
    assert min(server.times[4:]) - server.times[0] >= 0.2
    # Two places were left then: the fifth and the sixth request; the next after another pause.
    assert min(server.times[6:]) - min(server.times[4:]) >= 0.2


def test_a_503_that_names_a_time_is_a_pause(server: FakeOpenAI, tmp_path: Path) -> None:
    server.failures, server.headers = [503], {"Retry-After": "0.2"}
    with Calls(tmp_path / "calls", [annotator(server, retries=0, concurrency=1)], say=lambda line: None) as calls:
        assert [answer.value for answer in calls.ask(questions(3), good, 1)] == [GOOD] * 3
    assert server.times[1] - server.times[0] >= 0.2


def test_a_limit_that_does_not_end_is_given_up(
    server: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "PATIENCE", 0.1)
    server.always_fails = 429
    with Calls(tmp_path / "calls", [annotator(server)], say=lambda line: None) as calls:
        with pytest.raises(UserError, match=r"no annotator is left: a \(http.*it took no request \(HTTP 429"):
            list(calls.ask(questions(9), good, 1))
        server.always_fails = None  # and the next time it is asked again
        assert len(list(calls.ask(questions(9), good, 1))) == 9


def test_retry_after_in_all_its_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    monkeypatch.setattr(client.time, "time", lambda: now.timestamp())
    later, earlier = (format_datetime(now + timedelta(seconds=s), usegmt=True) for s in (90, -90))
    assert client.retry_after({"retry-after": "3"}) == 3
    assert client.retry_after({"retry-after": "0.25"}) == 0.25
    assert client.retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert client.retry_after({"retry-after": later}) == 90
    assert client.retry_after({"retry-after": earlier}) == 0
    assert client.retry_after({"retry-after": later, "date": earlier}) == 180  # by the server's own clock
    for nothing in ("", "soon", "nan", "inf", "Tue, 99 Xyz"):
        assert client.retry_after({"retry-after": nothing}) is None
    assert client.retry_after({}) is None


def test_a_dead_endpoint_is_not_tried_for_every_request(server: FakeOpenAI, tmp_path: Path) -> None:
    dead = FakeOpenAI()  # never entered: connections are refused
    people = [annotator(server, "b"), annotator(dead, "a", retries=2)]
    with Calls(tmp_path / "calls", people, say=lambda line: None) as calls:
        answers = list(calls.ask(questions(200, "a", "b"), good, 1))
        assert [answer.value for answer in answers] == [None, GOOD] * 200
        assert "refused" in calls.given_up["a"].lower() or "connect" in calls.given_up["a"].lower()
    tally = tally_of(tmp_path / "calls", "a")
    assert tally.statuses == {"unreachable": tally.calls} and tally.calls <= 12
    assert tally.usd == tally.unsure_usd == 0


def test_one_that_dies_midway_keeps_its_answers(server: FakeOpenAI, tmp_path: Path) -> None:
    with FakeOpenAI(always(GOOD)) as dying:
        dying.dies_after = 10
        people = [annotator(server, "b"), annotator(dying, "a", retries=1)]
        with Calls(tmp_path / "calls", people, say=lambda line: None) as calls:
            answers = list(calls.ask(questions(50, "a", "b"), good, 1))
    of_a = [answer for answer in answers if answer.annotator == "a"]
    assert all(answer.value == GOOD for answer in answers if answer.annotator == "b")
    kept = sum(answer.value == GOOD for answer in of_a)
    assert 10 <= kept < 14 and kept == tally_of(tmp_path / "calls", "a").statuses["ok"]
    assert all(answer.error for answer in of_a if answer.value is None)


def test_when_all_are_dead_it_is_an_error_that_names_them(tmp_path: Path) -> None:
    dead = [annotator(FakeOpenAI(), name, retries=0) for name in "ab"]
    with Calls(tmp_path / "calls", dead, say=lambda line: None) as calls, pytest.raises(UserError) as error:
        list(calls.ask(questions(2, "a", "b"), good, 1))
    assert "no annotator is left: a (http://127.0.0.1:" in str(error.value) and "; b (http://" in str(error.value)


def test_a_failure_now_and_then_does_not_give_an_annotator_up(server: FakeOpenAI, tmp_path: Path) -> None:
    def reply(body: Body) -> Any:
        return b"?" if body["messages"][0]["content"].endswith(("1 ", "2 ")) else GOOD

    server.reply = reply
    with Calls(tmp_path / "calls", [annotator(server, retries=1, concurrency=1)]) as calls:
        answers = list(calls.ask(questions(60), good, 1))
        assert not calls.given_up
    assert sum(answer.value == GOOD for answer in answers) == 48


def misconfigure(server: FakeOpenAI, **changes: Any) -> dict[str, Any]:
    for name, value in changes.items():
        setattr(server, name, value)
    return {}


MISTAKES: dict[str, tuple[Callable[[FakeOpenAI], dict[str, Any]], str]] = {
    "a wrong key": (
        lambda s: misconfigure(s, key="right") | {"api_key_env": "THE_KEY"},
        r"HTTP 401 \(Incorrect API key provided\); check the key in the environment variable THE_KEY",
    ),
    "no key": (lambda s: misconfigure(s, key="right"), "HTTP 401.*give the variable that holds the key as api_key_env"),
    "no right": (lambda s: misconfigure(s, always_fails=403) | {"api_key_env": "THE_KEY"}, "HTTP 403.*rights"),
    "an unknown model": (lambda s: misconfigure(s, models=["b"]), r"HTTP 404 \(The model `a` does not exist\); check"),
    "a wrong path": (lambda s: {"base_url": s.url + "/v2"}, r"HTTP 404 \(Not Found\); check base_url"),
    "a wrong field": (
        lambda s: misconfigure(s, always_fails=400, error=error("Unsupported parameter: 'max_tokens'")),
        r"HTTP 400 \(Unsupported parameter: 'max_tokens'\); check max_tokens, length_field",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_configuration_is_told_at_once(
    mistake: str, server: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", " wrong\n")
    make, words = MISTAKES[mistake]
    options = make(server)
    with FakeOpenAI(always(GOOD)) as fine:
        people = [annotator(fine, "b"), annotator(server, "a", **options)]
        with Calls(tmp_path / "calls", people) as calls, pytest.raises(UserError, match=words) as told:
            list(calls.ask(questions(300, "a", "b"), good, 1))
    assert f"annotator a (a at {options.get('base_url', server.url)})" in str(told.value)
    assert len(server.bodies) <= 4


def test_a_request_that_is_rejected_alone_costs_itself_only(server: FakeOpenAI, tmp_path: Path) -> None:
    with Calls(tmp_path / "calls", [annotator(server, concurrency=1)]) as calls:
        assert next(calls.ask(questions(1), good, 1)).value == GOOD
    server.failures, server.error = [400], error("cannot parse this one")
    with Calls(tmp_path / "calls", [annotator(server, concurrency=1)]) as calls:
        _, bad, fine = calls.ask(questions(3), good, 1)
    assert bad.error == "rejected: HTTP 400 (cannot parse this one)" and fine.value == GOOD


def test_keys_go_where_they_belong(server: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="a: the environment variable THE_KEY is not set"):
        Calls(tmp_path, [annotator(server, api_key_env="THE_KEY")])
    monkeypatch.setenv("THE_KEY", "a b\tc")
    with pytest.raises(UserError, match="THE_KEY holds characters that no key has"):
        Calls(tmp_path, [annotator(server, api_key_env="THE_KEY")])
    monkeypatch.setenv("THE_KEY", " mine\n")
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    server.key = "mine"
    with FakeOpenAI(always(GOOD)) as other:
        people = [annotator(server, "a", api_key_env="THE_KEY"), annotator(other, "b")]
        with Calls(tmp_path / "calls", people) as calls:
            assert [answer.value for answer in calls.ask(questions(2, "a", "b"), good, 1)] == [GOOD] * 4
        assert other.keys == {"Bearer none"}
    assert "mine" not in (tmp_path / "calls" / "calls.sqlite").read_bytes().decode("latin-1")


def test_text_that_no_file_can_hold_is_mended(server: FakeOpenAI, tmp_path: Path) -> None:
    server.reply = lambda body: completion({"content": [{"type": "text", "text": "a\ud800b"}, {"type": "text"}]})
    with Calls(tmp_path / "calls", [annotator(server)]) as calls:
        (answer,) = calls.ask(questions(1), lambda text: text, 1)
    assert answer.value == "a\ufffdb"


def test_without_openai_the_extra_is_named(server: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(UserError, match=r'pip install "skyrm-jax\[curate\]"'):
        Calls(tmp_path, [annotator(server)])


def test_the_gate_widens_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halved by the first of several refusals that were under way together; an answer gives back a little."""
    way = gate.Gate("a", 8, lambda line: None)
    began = time.monotonic()
    for _ in range(5):
        way.limited(began, 0.0, "no")
    assert way._limit == 4
    for _ in range(200):
        way.answered()
    assert way._limit == 8
