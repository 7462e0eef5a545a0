"""Comparisons: every accepted form is read as it is meant, every fault is named."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrm_jax.comparison import ROLES, Comparison, Message, Preference, to_record
from skyrm_jax.errors import RecordError
from skyrm_jax.forms import detect, parse

USER, ASSISTANT = Message("user", "2 + 2?"), Message("assistant", "4")


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]


def test_plain_text_stands_for_a_user_and_an_assistant_message() -> None:
    made = Comparison.of("2 + 2?", ["4", [{"role": "assistant", "content": "5"}]], chosen=0, id="x", category="sums")
    assert made == Comparison(
        (USER,), ((ASSISTANT,), (Message("assistant", "5"),)), (Preference(0, 1),), id="x", category="sums"
    )
    assert made.conversation(1) == (USER, Message("assistant", "5"))


def test_each_chosen_response_is_preferred_to_each_of_the_others() -> None:
    made = Comparison.of("?", ["a", "b", "c", "d"], chosen=[3, 1])
    assert [(p.winner, p.loser) for p in made.preferences] == [(3, 0), (3, 2), (1, 0), (1, 2)]


def test_native_form_reads_every_field() -> None:
    made = parse(
        {
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            "responses": ["a", "b", "c"],
            "preferences": [[0, 1], {"winner": 2, "loser": 0, "p": 0.75, "margin": 1, "weight": 2}],
            "id": 7,
            "source": "me",
            "category": "chat",
        }
    )
    assert [m.role for m in made.prompt] == ["system", "user"]
    assert made.preferences == (Preference(0, 1), Preference(2, 0, 0.75, 1.0, 2.0))
    assert (made.id, made.source, made.category) == ("7", "me", "chat")


def test_conversations_are_split_after_their_common_turns() -> None:
    record = {"chosen": turns("a", "b", "c", "good"), "rejected": turns("a", "b", "c", "bad")}
    made = parse(record)
    assert detect(record) == "chosen_rejected"
    assert [m.content for m in made.prompt] == ["a", "b", "c"]
    assert [r[0].content for r in made.responses] == ["good", "bad"]
    assert made.preferences == (Preference(0, 1),)


def test_a_common_assistant_turn_at_the_end_of_the_common_part_stays_in_the_responses() -> None:
    longer = parse({"chosen": turns("a", "same", "b", "c"), "rejected": turns("a", "same", "x", "y")})
    assert [m.content for m in longer.prompt] == ["a"]
    assert [[m.content for m in r] for r in longer.responses] == [["same", "b", "c"], ["same", "x", "y"]]
    equal = parse({"chosen": turns("a", "same"), "rejected": turns("a", "same")})
    assert equal.responses[0] == equal.responses[1] == (Message("assistant", "same"),)


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [("4", "5"), (turns("2 + 2?", "4")[1:], turns("2 + 2?", "5")[1:]), (turns("2 + 2?", "4"), turns("2 + 2?", "5"))],
)
@pytest.mark.parametrize("prompt", ["2 + 2?", turns("2 + 2?")])
def test_a_prompt_beside_answers_or_whole_conversations(prompt: Any, chosen: Any, rejected: Any) -> None:
    record = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    assert detect(record) == "prompt_chosen_rejected"
    assert parse(record) == Comparison.of("2 + 2?", ["4", "5"], chosen=0)


def test_hh_rlhf_dialogues() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Human: is that\n\nyou?"
    made = parse({"chosen": f"{start}\n\nAssistant:  No. ", "rejected": f"{start}\n\nAssistant:"})
    assert [m.role for m in made.prompt] == ["user", "assistant", "user"]
    assert made.prompt[2].content == "Human: is that\n\nyou?"
    assert [r[0].content for r in made.responses] == ["No.", ""]


@pytest.mark.parametrize(
    ("preference", "winner"), [(1, 0), (1.4999, 0), (1.5001, 1), (2.0, 1), (1.5, None), (0.0, None), (None, None)]
)
def test_alpaca_eval_keeps_the_order_and_encodes_the_winner(preference: float | None, winner: int | None) -> None:
    record = {"instruction": "q", "output_1": "a", "output_2": "b", "preference": preference, "generator_2": "gemma"}
    made = parse(record)
    assert [r[0].content for r in made.responses] == ["a", "b"]
    assert [p.winner for p in made.preferences] == ([] if winner is None else [winner])
    assert made.category == "gemma"


def test_a_form_that_is_named_is_not_guessed() -> None:
    record = {"prompt": "p", "responses": ["x"], "chosen": turns("a", "b"), "rejected": turns("a", "c")}
    assert detect(record) == "native"
    assert len(parse(record, "chosen_rejected").responses) == 2


GOOD: dict[str, Any] = {"prompt": "p", "responses": ["a", "b"], "preferences": [[0, 1]]}


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ([1], "record"),
        ({}, "record"),
        ({"conversations": []}, "record"),
        ({"responses": ["a"]}, "prompt"),
        (GOOD | {"prompt": 3}, "prompt"),
        (GOOD | {"prompt": ["a"]}, "prompt"),
        (GOOD | {"prompt": [{"role": "boss", "content": "a"}]}, "prompt.role"),
        (GOOD | {"prompt": [{"role": ["user"], "content": "a"}]}, "prompt.role"),
        (GOOD | {"prompt": [{"role": "user"}]}, "prompt.content"),
        (GOOD | {"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "prompt.content"),
        (GOOD | {"prompt": [{"role": "user", "content": "a", "tool_calls": [1]}]}, "prompt"),
        (GOOD | {"prompt": "\ud800"}, "prompt"),
        (GOOD | {"responses": "a"}, "responses"),
        (GOOD | {"responses": ["a", None]}, "responses[1]"),
        (GOOD | {"preferences": 1}, "preferences"),
        (GOOD | {"preferences": [1]}, "preferences"),
        (GOOD | {"preferences": [[0, True]]}, "preferences.loser"),
        (GOOD | {"preferences": [{"winner": 0, "loser": 1, "prob": 1}]}, "preferences"),
        (GOOD | {"preferences": [{"winner": 0, "loser": 1, "p": "1"}]}, "preferences.p"),
        (GOOD | {"preferences": [{"winner": 0, "loser": 1, "margin": 10**400}]}, "preferences"),
        (GOOD | {"chosen": 0}, "chosen"),
        ({"prompt": "p", "responses": ["a", "b"], "chosen": 2}, "chosen"),
        ({"prompt": "p", "responses": ["a", "b"], "chosen": "0"}, "chosen"),
        (GOOD | {"id": 1.5}, "id"),
        ({"chosen": "no markers", "rejected": "none"}, "chosen"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": 3}, "rejected"),
        ({"chosen": turns("a", "b"), "rejected": turns("x", "b")}, "rejected"),
        ({"chosen": turns("a", "b"), "rejected": "text"}, "rejected"),
        ({"instruction": "i", "output_1": "a", "output_2": "b", "preference": 3}, "preference"),
        ({"instruction": "i", "output_1": "a", "output_2": "b", "preference": True}, "preference"),
        ({"instruction": "i", "output_1": "a", "output_2": 1, "preference": 2}, "output_2"),
        ({"instruction": "i", "input": "x", "output_1": "a", "output_2": "b", "preference": 2}, "input"),
    ],
)
def test_a_fault_is_named_by_its_field_with_a_remedy(record: Any, field: str) -> None:
    with pytest.raises(RecordError) as caught:
        parse(record)
    assert caught.value.field == field
    assert field in str(caught.value)
    assert caught.value.reason
    assert caught.value.remedy in str(caught.value)


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(RecordError, match="choose from auto, native"):
        parse(GOOD, "rlhf")


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"prompt": ()}, "prompt", "no user turn"),
        ({"prompt": (USER, ASSISTANT)}, "prompt", "ends in an assistant turn"),
        ({"responses": ()}, "responses", "is empty"),
        ({"responses": ((ASSISTANT, USER), (ASSISTANT,))}, "responses", "does not end in an assistant turn"),
        ({"responses": ((), (ASSISTANT,))}, "responses", "does not end in an assistant turn"),
        ({"responses": ((USER, ASSISTANT), (ASSISTANT,))}, "responses", "repeats the prompt"),
        ({"preferences": (Preference(0, 2),)}, "preferences", "not there"),
        ({"preferences": (Preference(-1, 1),)}, "preferences", "not there"),
        ({"preferences": (Preference(1, 1),)}, "preferences", "itself"),
        ({"preferences": (Preference(0, 1, p=1.5),)}, "preferences.p", "probability"),
        ({"preferences": (Preference(0, 1, p=float("nan")),)}, "preferences.p", "probability"),
        ({"preferences": (Preference(0, 1, margin=float("inf")),)}, "preferences.margin", "finite"),
        ({"preferences": (Preference(0, 1, weight=-1.0),)}, "preferences.weight", "weight"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_check_names_what_cannot_be_scored(change: dict[str, Any], field: str, reason: str, training: bool) -> None:
    good: dict[str, Any] = {
        "prompt": (USER,),
        "responses": ((ASSISTANT,), (Message("assistant", "5"),)),
        "preferences": (Preference(0, 1),),
    }
    Comparison(**good).check(training)
    with pytest.raises(RecordError, match=reason) as caught:
        Comparison(**(good | change)).check(training)
    assert caught.value.field == field


def test_without_responses_the_others_keep_their_preferences() -> None:
    facts = {"p": 0.9, "margin": 0.5, "weight": 2.0}
    four = Comparison.of(
        "p", list("abcd"), [[0, 1], {"winner": 3, "loser": 1, **facts}, [2, 0], [1, 2], [3, 2]], id="x"
    )
    assert four.without([0]) == Comparison.of(
        "p", list("bcd"), [{"winner": 2, "loser": 0, **facts}, [0, 1], [2, 1]], id="x"
    )
    assert four.without({1, 3}) == Comparison.of("p", ["a", "c"], [[1, 0]], id="x")
    assert four.without([]) == four


def test_identical_responses_are_refused_in_training_only_and_only_where_nothing_else_is_preferred() -> None:
    same = Comparison.of("p", ["a", "a", "b"], preferences=[[0, 1]])
    same.check(training=False)
    with pytest.raises(RecordError, match="identical responses"):
        same.check(training=True)
    Comparison.of("p", ["a", "a", "b"], preferences=[[0, 2], [1, 2]]).check(training=True)
    Comparison.of("p", ["a", "a", "b"], preferences=[[0, 1], [1, 2]]).check(training=True)
    with pytest.raises(RecordError, match="not there"):
        Comparison.of("p", ["a", "a"], preferences=[[0, 1], [1, 2]]).check(training=True)


def test_a_text_is_not_taken_for_a_list_of_responses() -> None:
    with pytest.raises(RecordError, match="is one text"):
        Comparison.of("a", "bc")


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
messages = st.lists(st.builds(Message, st.sampled_from(ROLES), text), min_size=1, max_size=3).map(tuple)
number = st.floats(0, 1)
comparisons = st.integers(1, 4).flatmap(
    lambda k: st.builds(
        Comparison,
        messages,
        st.lists(messages, min_size=k, max_size=k).map(tuple),
        st.lists(
            st.builds(Preference, st.integers(0, k - 1), st.integers(0, k - 1), number, number, number), max_size=3
        ).map(tuple),
        text,
        text,
        text,
    )
)


@given(comparisons)
def test_the_native_form_holds_everything(comparison: Comparison) -> None:
    assert parse(json.loads(json.dumps(to_record(comparison))), "native") == comparison


def test_real_hh_rlhf(shared: Path) -> None:
    with gzip.open(shared / "data/preferences/hh-rlhf/harmless-base_test.jsonl.gz", "rt") as lines:
        made = [parse(json.loads(line)) for line in lines]
    assert len(made) == 2312
    for comparison in made:
        comparison.check(training=True)
        assert comparison.prompt[-1].role == "user"
    # In five the two dialogues part ways before the last turn.
    assert sum(max(map(len, c.responses)) > 1 for c in made) == 5


def test_real_alpaca_eval(shared: Path) -> None:
    files = sorted((shared / "data/preferences/alpaca_eval").glob("*.json"))
    records = [record for file in files for record in json.loads(file.read_text())]
    made = [parse(record) for record in records]
    assert len(made) == 4025
    assert sum(r["preference"] not in (None, 1.5) for r in records) == 4012
    # Of these, 22 are AlpacaEval's code 0: phi-2 gave the reference's answer word for word.
    undecided = [c for c in made if not c.preferences]
    assert len(undecided) == 13 + 22
    assert sum(c.category == "phi-2" and c.responses[0] == c.responses[1] for c in undecided) == 22
    for comparison, record in zip(made, records, strict=True):
        comparison.check(training=True)
        if comparison.preferences:
            assert comparison.preferences[0].winner == (record["preference"] > 1.5)
