"""Attributes: only legal ones are read, whoever gives them; and they do not depend on the label."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fake_openai import FakeOpenAI, annotator
from hypothesis import given
from hypothesis import strategies as st

from skyrm_jax.comparison import Message
from skyrm_jax.curate.annotators import Calls, gate
from skyrm_jax.curate.attributes import (
    CATEGORIES,
    CONTROVERSIALITIES,
    NAMES,
    OBJECTIVITIES,
    SCHEMA,
    AttributeOptions,
    Attributes,
    Labelled,
    label,
    parse,
)
from skyrm_jax.curate.pair import Pair
from skyrm_jax.errors import UserError

LEGAL = Attributes("Math", "Objective", "Low", "correct, short", "Solve it first.")
ANSWER = json.dumps(LEGAL.row())

TEXT = st.text(min_size=1).filter(lambda text: text.strip() == text)
any_attributes = st.builds(
    Attributes,
    st.sampled_from(CATEGORIES),
    st.sampled_from(OBJECTIVITIES),
    st.sampled_from(CONTROVERSIALITIES),
    TEXT,
    TEXT,
)


def pairs(count: int) -> list[Pair]:
    return [
        Pair.of(
            [Message("user", f"question {i}")], [Message("assistant", f"good {i}")], [Message("assistant", f"bad {i}")]
        )
        for i in range(count)
    ]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "LONGEST_BACKOFF", 0.005)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(lambda body: ANSWER) as fake:
        yield fake


@given(any_attributes, st.text("abc {}\n", max_size=20), st.text("abc {}\n", max_size=20))
def test_the_first_legal_object_is_read_wherever_it_stands(found: Attributes, before: str, after: str) -> None:
    text = f"{before}{json.dumps(found.row())}{after}{ANSWER}"
    assert parse(text) == found
    assert parse(f"<think>{ANSWER}</think>{text}") == found
    assert parse(json.dumps({"result": [found.row()]})) == found
    assert parse(json.dumps(found.row() | {"task_category": "Poetry"}) + text) == found


@pytest.mark.parametrize("name", NAMES)
def test_no_field_may_be_missing_or_of_another_type(name: str) -> None:
    fine = LEGAL.row()
    missing = {field: value for field, value in fine.items() if field != name}
    assert parse(json.dumps(missing)) is None
    for wrong in ("", "  ", None, 3, True, ["Math"], {"a": "b"}, "lone \ud800"):
        assert parse(json.dumps(fine | {name: wrong})) is None, wrong
    if name in NAMES[:3]:
        assert parse(json.dumps(fine | {name: f"{fine[name]}s"})) is None
        assert parse(json.dumps(fine | {name: f" {fine[name].upper()}\n"})) == LEGAL


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "no JSON", ANSWER[:-1], '{"a":' * 5000, "{" * 5000, '{"a": ' + "9" * 5000 + "}"]
)
def test_what_holds_none(text: str) -> None:
    assert parse(text) is None
    assert parse(text + " " + ANSWER) == LEGAL or text == ANSWER[:-1]


@given(any_attributes | st.none(), st.integers(1, 10))
def test_rows_are_read_back(attributes: Attributes | None, attempts: int) -> None:
    labelled = Labelled("id", attributes, "a", attempts, "" if attributes else "invalid", "key")
    (row,) = pa.Table.from_pylist([labelled.row()], SCHEMA).to_pylist()
    assert Labelled.of_row(row) == labelled


def test_every_pair_is_asked_about_once_and_the_work_is_shared(server: FakeOpenAI, tmp_path: Path) -> None:
    some = pairs(60)
    with Calls(tmp_path / "calls", [annotator(server, name) for name in "abc"]) as calls:
        found = list(label(calls, some, AttributeOptions(), total=60))
        again = list(label(calls, [pair.flipped() for pair in some], AttributeOptions()))
    assert [one.pair for one in found] == [pair.id for pair in some]
    assert all(one.attributes == LEGAL and one.attempts == 1 for one in found)
    shares = Counter(one.annotator for one in found)
    assert set(shares) == {"a", "b", "c"} and min(shares.values()) >= 8
    # The flipped twins were asked nothing: the question does not tell which response is the chosen one.
    assert len(server.bodies) == 60
    assert [(one.annotator, one.call) for one in again] == [(one.annotator, one.call) for one in found]


def test_responses_are_shown_in_either_order(server: FakeOpenAI, tmp_path: Path) -> None:
    with Calls(tmp_path / "calls", [annotator(server)]) as calls:
        list(label(calls, pairs(60), AttributeOptions()))
    shown = [body["messages"][1]["content"] for body in server.bodies]
    good_first = sum(text.index("good ") < text.index("bad ") for text in shown)
    assert 15 <= good_first <= 45
    assert all(
        text.count(f"question {i}\n") == 1 for text in shown for i in [int(text.split("question ")[1].split()[0])]
    )


def test_another_annotator_is_asked_when_one_gives_nothing_valid(server: FakeOpenAI, tmp_path: Path) -> None:
    def reply(body: dict[str, Any]) -> str:
        return ANSWER if body["model"] == "b" else '{"task_category": "Poetry"}'

    server.reply = reply
    with Calls(tmp_path / "calls", [annotator(server, name) for name in "ab"]) as calls:
        found = list(label(calls, pairs(20), AttributeOptions(passes=2)))
        assert all(one.attributes == LEGAL and one.annotator == "b" for one in found)
        assert {one.attempts for one in found} == {1, 3}
        tallies = {tally.annotator: tally for tally in calls.summary()}
        alone = list(label(calls, pairs(20), AttributeOptions(passes=2, annotators=["a"])))
    asked = tallies["a"].statuses["invalid"]
    assert asked == 2 * sum(one.attempts == 3 for one in found) > 0
    assert tallies["b"].statuses == {"ok": 20}
    assert all((one.attributes, one.attempts, one.error) == (None, 2, "invalid") for one in alone)


def test_options_and_prompts_that_cannot_be(server: FakeOpenAI, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"attributes\.passes must be at least 1"):
        AttributeOptions(passes=0)
    mine = tmp_path / "mine.jinja"
    mine.write_text("{{ target.prompt }}\n{{ target.chosen }}")
    with Calls(tmp_path / "calls", [annotator(server)]) as calls:
        with pytest.raises(UserError, match=r"mine\.jinja:2: .*chosen"):
            next(label(calls, pairs(1), AttributeOptions(prompt=str(mine))))
        mine.write_text("{{ target.prompt }} {{ target.candidate_1 }} {{ target.candidate_2 }} {{ categories }}")
        assert next(label(calls, pairs(1), AttributeOptions(prompt=str(mine)))).attributes == LEGAL
    assert [message["role"] for body in server.bodies for message in body["messages"]] == ["user"]
