"""Answers come in order and are paid for once; a budget is never passed."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_openai import FakeOpenAI, annotator, echo, questions

from skyrm_jax.curate.annotators import Annotator, BudgetSpent, Calls, Request, gate, summary
from skyrm_jax.errors import UserError


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds; no proxy."""
    monkeypatch.setattr(gate, "LONGEST_BACKOFF", 0.005)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as fake:
        yield fake


def text(answer: str) -> str:
    return answer


def random_seconds(body: dict[str, Any]) -> float:
    """Another one for every body, so that answers overtake each other."""
    return int(echo(body)[:4], 16) / 0xFFFF / 20


def test_answers_come_in_the_order_of_the_requests_from_all_annotators_at_once(tmp_path: Path) -> None:
    with FakeOpenAI() as one, FakeOpenAI() as other:
        other.seconds = random_seconds
        together = threading.Barrier(5)  # nobody gets an answer before five are there

        def wait(body: dict[str, Any]) -> str:
            together.wait(60)
            return echo(body)

        one.reply = wait
        people = [annotator(one, "a", concurrency=5), annotator(other, "b", concurrency=3), annotator(other, "c")]
        asked = questions(30, "a", "b", "c")
        with Calls(tmp_path / "calls", people) as calls:
            answers = list(calls.ask(asked, text, 1))
        assert [answer.request for answer in answers] == asked
        for answer in answers:
            (name,) = answer.request.annotators
            chosen = next(one for one in people if one.name == name)
            body = {"messages": list(answer.request.messages), "model": name, **chosen.sampling}
            assert (answer.value, answer.annotator, answer.error, answer.attempts) == (echo(body), name, "", 1)
        assert one.most == 5 and other.most <= 7  # as many as allowed, and no more


def test_the_request_holds_the_options(server: FakeOpenAI, tmp_path: Path) -> None:
    options = {
        "temperature": None,
        "top_p": 1,
        "max_tokens": 77,
        "length_field": "max_completion_tokens",
        "extra": {"chat_template_kwargs": {"enable_thinking": False}, "seed": 5},
    }
    with Calls(tmp_path / "calls", [annotator(server, **options)]) as calls:
        list(calls.ask(questions(1), text, 1))
    assert server.bodies == [
        {
            "model": "a",
            "messages": [{"role": "user", "content": "question 0 "}],
            "top_p": 1.0,
            "max_completion_tokens": 77,
            "chat_template_kwargs": {"enable_thinking": False},
            "seed": 5,
        }
    ]


def test_no_answer_is_paid_for_twice(server: FakeOpenAI, tmp_path: Path) -> None:
    one = annotator(server)
    with Calls(tmp_path / "calls", [one]) as calls:
        first = list(calls.ask(questions(20), text, 1))
        assert list(calls.ask(questions(20), text, 1)) == first
    # Nothing of this changes an answer.
    other = replace(one, base_url="http://moved:9/v1", concurrency=1, timeout=5, retries=0, price_in=1, weight=2)
    renamed = [replace(request, purpose="else", tag=3) for request in questions(20)]
    with Calls(tmp_path / "calls", [other]) as calls:
        again = list(calls.ask(renamed, text, 1))
        assert [answer.value for answer in again] == [answer.value for answer in first]
        tallies = {(tally.annotator, tally.purpose): tally for tally in calls.summary()}
        assert calls.text(first[3].call) == first[3].value and calls.text("?") is None
    assert len(server.bodies) == 20
    assert (tallies["a", "test"].calls, tallies["a", "test"].cached) == (20, 0)
    assert (tallies["a", "else"].calls, tallies["a", "else"].cached) == (0, 20)


def test_equal_requests_at_the_same_time_are_one_call(server: FakeOpenAI, tmp_path: Path) -> None:
    server.seconds = lambda body: 0.05
    with Calls(tmp_path / "calls", [annotator(server)]) as calls:
        answers = list(calls.ask(questions(3) * 5, text, 1))
    assert len(server.bodies) == 3 and len({answer.value for answer in answers}) == 3


def test_the_results_do_not_depend_on_what_comes_first(tmp_path: Path) -> None:
    results = []
    for k, seconds in enumerate((lambda body: 0.0, random_seconds, lambda body: 0.05 - random_seconds(body))):
        with FakeOpenAI(lambda body: "odd" if int(echo(body)[-1], 16) % 2 else "even") as server:
            server.seconds = seconds
            with Calls(tmp_path / str(k), [annotator(server, concurrency=16)]) as calls:
                answers = calls.ask(questions(40), lambda answer: answer if answer == "odd" else None, 3)
                results.append([(answer.value, answer.error, answer.attempts) for answer in answers])
    assert results[0] == results[1] == results[2]
    assert {attempts for _, _, attempts in results[0]} == {1, 3}


def test_only_a_window_of_requests_is_read_ahead(server: FakeOpenAI, tmp_path: Path) -> None:
    read = 0

    def endless() -> Iterator[Request]:
        nonlocal read
        for request in questions(5000):
            read += 1
            yield request

    with Calls(tmp_path / "calls", [annotator(server)]) as calls:
        answers = calls.ask(endless(), text, 1)
        for done in range(1, 4):
            next(answers)
            assert read <= 256 + done
        answers.close()
    assert len(server.bodies) < 300


def test_a_call_is_written_down_before_it_begins_and_an_answer_before_it_is_used(
    server: FakeOpenAI, tmp_path: Path
) -> None:
    file, under_way = tmp_path / "calls" / "calls.sqlite", []

    def statuses() -> list[str]:
        connection = sqlite3.connect(file)
        rows = connection.execute("SELECT status FROM calls ORDER BY id").fetchall()
        connection.close()
        return [status for (status,) in rows]

    def look(body: dict[str, Any]) -> str:
        under_way.append(statuses()[-1])
        return "fine"

    server.reply = look
    with Calls(tmp_path / "calls", [annotator(server, concurrency=1)]) as calls:
        for _ in calls.ask(questions(3), lambda answer: statuses(), 1):
            assert statuses()[0] == "ok"
        writer = calls._ledger._writer  # on the disk, that is, and not only in the system's memory
        assert [writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")] == [
            "wal",
            2,
        ]
    assert under_way == ["started"] * 3


def test_answers_that_cannot_be_used_are_asked_again_and_kept(server: FakeOpenAI, tmp_path: Path) -> None:
    said = {"question 0 ": iter(["rubbish", "more rubbish", "42"]), "question 1 ": iter(["never"] * 4)}
    server.reply = lambda body: next(said[body["messages"][0]["content"]])

    def parse(answer: str) -> int | None:
        return int(answer) if answer.isdecimal() else None

    for _ in range(2):  # the second time everything is known
        with Calls(tmp_path / "calls", [annotator(server, concurrency=1)]) as calls:
            good, bad = calls.ask(questions(2), parse, 4)
            (tally,) = calls.summary()
        assert (good.value, good.attempts, good.error) == (42, 3, "")
        assert (bad.value, bad.attempts, bad.error) == (None, 4, "invalid")
        assert tally.statuses == {"ok": 1, "invalid": 6} and tally.retries == 0
        assert len(server.bodies) == 7


def test_the_next_annotator_is_asked_when_the_first_gives_nothing_valid(server: FakeOpenAI, tmp_path: Path) -> None:
    server.reply = lambda body: "yes" if body["model"] == "b" else "?"
    request = replace(questions(1)[0], annotators=("a", "b", "c"))
    with Calls(tmp_path / "calls", [annotator(server, name) for name in "abc"]) as calls:
        (answer,) = calls.ask([request], lambda answer: answer if answer == "yes" else None, 2)
    assert (answer.value, answer.annotator, answer.attempts) == ("yes", "b", 3)
    assert [body["model"] for body in server.bodies] == ["a", "a", "b"]


def test_a_budget_is_never_passed_and_used_up(server: FakeOpenAI, tmp_path: Path) -> None:
    server.seconds = random_seconds
    one = annotator(server, concurrency=32, price_in=100, price_out=300, max_tokens=64)
    asked = questions(120, size=200)
    most = one.most(asked[-1].messages)

    def charged() -> float:
        return sum(one.cost(*server.tokens(body, echo(body))) for body in server.answered)

    budget = 0.0
    for step in (0.5, 0.25, 0.25):
        budget += step
        with Calls(tmp_path / "calls", [one], budget) as calls, pytest.raises(BudgetSpent) as error:
            list(calls.ask(asked, text, 1, total=len(asked)))
        assert budget - most < charged() <= budget
        assert calls.spent == pytest.approx(charged())
        assert error.value.limit == budget and error.value.spent == pytest.approx(charged())
        assert 0 < error.value.missing <= most
    message = str(error.value)
    assert "of $1.00" in message and "requests that are left need about $" in message
    assert "raise the budget and run the same command again" in message
    with Calls(tmp_path / "calls", [one], 100.0) as calls:
        answers = list(calls.ask(asked, text, 1))
    assert len(answers) == len(server.bodies) == 120 and all(answer.value for answer in answers)
    assert summary(tmp_path / "calls")[0].usd == pytest.approx(charged())


def test_what_a_call_without_an_answer_may_have_cost_counts(server: FakeOpenAI, tmp_path: Path) -> None:
    server.always_fails = "cut"
    one = annotator(server, price_out=1e6 / 100, retries=9, max_tokens=100, concurrency=1)  # a call may cost $1
    with Calls(tmp_path / "calls", [one], 3.5) as calls, pytest.raises(BudgetSpent):
        list(calls.ask(questions(5), text, 1))
    assert len(server.bodies) == 3
    (tally,) = summary(tmp_path / "calls")
    assert (tally.usd, tally.unsure_usd, tally.statuses) == (0.0, 3.0, {"dropped": 3})


def test_a_call_that_was_dropped_counts_at_once(
    server: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyrm_jax.curate.annotators.calls.GRACE", 0.05)
    server.failures = ["hang", "hang"]
    one = annotator(server, price_out=1e4, max_tokens=100, concurrency=2)
    with Calls(tmp_path / "calls", [one], 2.5) as calls:
        with pytest.raises(ZeroDivisionError):
            list(calls.ask(fails_after(2, server), text, 1))
        assert calls.spent == 2.0
        with pytest.raises(BudgetSpent):
            list(calls.ask(questions(1), text, 1))


def fails_after(count: int, server: FakeOpenAI) -> Iterator[Request]:
    """Requests whose source fails once the server has them all."""
    yield from questions(count)
    while len(server.bodies) < count:
        time.sleep(0.005)
    raise ZeroDivisionError


def test_an_answer_without_usage_counts_in_full(server: FakeOpenAI, tmp_path: Path) -> None:
    server.usage = False
    with Calls(tmp_path / "calls", [annotator(server, price_out=1e4, max_tokens=100)], 3.5) as calls:
        with pytest.raises(BudgetSpent):
            list(calls.ask(questions(5), text, 1))
        assert calls.spent == 3.0
    assert len(server.bodies) == 3


def test_one_process_at_a_time(server: FakeOpenAI, tmp_path: Path) -> None:
    with Calls(tmp_path / "calls", [annotator(server)]) as calls:
        with pytest.raises(UserError, match="is being written by another process"), Calls(tmp_path / "calls", []):
            pass
        assert len(list(calls.ask(questions(2), text, 1))) == 2
        assert summary(tmp_path / "calls")[0].calls == 2  # but anybody may read
    assert not [thread for thread in threading.enumerate() if thread.name == "annotators"]


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be looked at" * 9, None])
def test_a_file_that_is_not_ours_is_left_alone(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "calls" / "calls.sqlite"
    file.parent.mkdir()
    if content is None:
        connection = sqlite3.connect(file)
        connection.execute("CREATE TABLE theirs (x)")
        connection.close()
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    with pytest.raises(UserError, match=r"calls\.sqlite"), Calls(tmp_path / "calls", []):
        pass
    assert file.read_bytes() == before


def test_an_error_of_the_caller_ends_it_well(server: FakeOpenAI, tmp_path: Path) -> None:
    def parse(answer: str) -> str:
        raise ZeroDivisionError

    server.seconds = lambda body: 0.05
    with Calls(tmp_path / "calls", [annotator(server)]) as calls:
        with pytest.raises(ZeroDivisionError):
            list(calls.ask(questions(9), parse, 1))
        answered = len(server.answered)
        assert len(list(calls.ask(questions(9), text, 1))) == 9
        assert len(server.bodies) == 9 and answered < 9


@pytest.mark.filterwarnings("error")
def test_an_error_where_the_answers_are_used_ends_it_well(server: FakeOpenAI, tmp_path: Path) -> None:
    server.seconds = random_seconds
    with pytest.raises(ZeroDivisionError), Calls(tmp_path / "calls", [annotator(server)]) as calls:
        for _ in calls.ask(questions(50), text, 1):
            raise ZeroDivisionError
    begun = len(server.bodies)
    (tally,) = summary(tmp_path / "calls")
    assert begun < 50 and tally.statuses == {"ok": begun}
    with Calls(tmp_path / "calls", [annotator(server)]) as calls:
        assert len(list(calls.ask(questions(50), text, 1))) == len(server.bodies) == 50


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": " "}, "no name"),
        ({"model": ""}, "annotators: a: model: give"),
        ({"base_url": "localhost:8000"}, "base_url: give the endpoint's URL"),
        ({"base_url": "http://[::1/v1"}, "base_url: give the endpoint's URL"),
        ({"base_url": "http://x/v1?key=1"}, "the key in the variable"),
        ({"base_url": "http://x/v1/chat/completions/"}, "leave /chat/completions away"),
        ({"concurrency": 0}, "concurrency: must be at least 1"),
        ({"max_tokens": 0}, "max_tokens: must be at least 1"),
        ({"timeout": 0}, "timeout: must be"),
        ({"retries": -1}, "retries: must be"),
        ({"price_in": float("nan")}, "price_in: must be"),
        ({"price_out": -1}, "price_out: must be"),
        ({"weight": 0}, "weight: must be"),
        ({"temperature": -1}, "temperature: must be"),
        ({"top_p": 0}, "top_p: must be"),
        ({"extra": {"n": 2}}, "extra: may not hold n"),
    ],
)
def test_an_annotator_that_cannot_be(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Annotator(**{"name": "a", "model": "m", "base_url": "http://x/v1", **changes})


def test_annotators_differ_and_a_budget_needs_prices(server: FakeOpenAI, tmp_path: Path) -> None:
    one = annotator(server)
    with pytest.raises(UserError, match="two have the name a"):
        Calls(tmp_path, [one, replace(one, model="b")])
    with pytest.raises(UserError, match="a and b are the same model"):
        Calls(tmp_path, [one, replace(one, name="b", price_in=1, base_url=one.base_url + "/")])
    with pytest.raises(UserError, match="no annotator has a price"):
        Calls(tmp_path, [one], 5.0)
    with pytest.raises(UserError, match="budget must be"):
        Calls(tmp_path, [replace(one, price_in=1)], float("nan"))
    with Calls(tmp_path / "calls", [one]) as calls:
        with pytest.raises(UserError, match="there is no annotator z; choose from: a"):
            calls.names(["a", "z"])
        assert calls.names(None) == ("a",)
