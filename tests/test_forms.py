"""Forms beyond the native one: who won, by how much, and what is said of records that do not say."""

from dataclasses import replace
from typing import Any

import pytest

from skyrm_jax.comparison import Message, Preference
from skyrm_jax.errors import RecordError
from skyrm_jax.forms import detect, parse


def contents(record: dict[str, Any]) -> list[str]:
    return [response[-1].content for response in parse(record).responses]


def pairs(record: dict[str, Any], form: str = "auto") -> list[tuple[int, int]]:
    return [(p.winner, p.loser) for p in parse(record, form).preferences]


@pytest.mark.parametrize(
    ("field", "values", "expected"),
    [
        ("scores", [0.5, 2, -1], [(1, 0), (0, 2), (1, 2)]),
        ("ranks", [2, 1, 3], [(1, 0), (0, 2), (1, 2)]),
        ("scores", [1, 1, 0], [(0, 2), (1, 2)]),
        ("ranks", [1, 1, 1], []),
    ],
)
def test_scored_and_ranked_responses(field: str, values: list[float], expected: list[tuple[int, int]]) -> None:
    record = {"prompt": "?", "responses": ["a", "b", "c"], field: values}
    assert detect(record) == "native" and pairs(record) == expected


def test_several_chosen_and_rejected() -> None:
    record = {"prompt": "?", "chosen": ["a", [{"role": "assistant", "content": "b"}]], "rejected": ["c", "d"]}
    assert contents(record) == ["a", "b", "c", "d"]
    assert pairs(record) == [(0, 2), (0, 3), (1, 2), (1, 3)]


def said(turns: Any) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in turns]


def talk(*contents: str, first: str = "user") -> list[dict[str, str]]:
    roles = {"user": ["user", "assistant"], "system": ["system", "user", "assistant"], "assistant": ["assistant"]}[
        first
    ]
    roles += ["user", "assistant"] * len(contents)
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


TWO_SIDES: dict[str, dict[str, Any]] = {
    "native, chosen": {"prompt": "?", "responses": ["a", "b"], "chosen": 0},
    "native, scores": {"prompt": "?", "responses": ["a", "b"], "scores": [2, 1]},
    "native, preferences": {"prompt": "?", "responses": ["a", "b"], "preferences": [[0, 1]]},
    "prompt": {"prompt": "?", "chosen": "a", "rejected": "b"},
    "messages": {"chosen": talk("?", "a"), "rejected": talk("?", "b")},
    "hh-rlhf": {"chosen": "\n\nHuman: ?\n\nAssistant: a", "rejected": "\n\nHuman: ?\n\nAssistant: b"},
    "sharegpt": {"conversations": [{"from": "human", "value": "?"}], "chosen": {"from": "gpt", "value": "a"},
                 "rejected": {"from": "gpt", "value": "b"}},
    "label": {"question": "?", "response_a": "a", "response_b": "b", "winner": "A"},
    "conversations": {"conversation_a": talk("?", "a"), "conversation_b": talk("?", "b"), "winner": "model_a"},
    "pandalm": {"instruction": "?", "response1": "a", "response2": "b", "annotator1": 1},
    "alpaca_eval": {"instruction": "?", "output_1": "a", "output_2": "b", "preference": 1.1},
}  # fmt: skip
"""A record of every form; of the same comparison, "a" being better than "b"."""


@pytest.mark.parametrize("name", TWO_SIDES)
def test_probability_margin_and_weight_beside_any_two_sides(name: str) -> None:
    record = TWO_SIDES[name] | {"margin": 1, "weight": 0.5}
    expected = 1.0
    if name == "pandalm":  # the votes are the probability
        with pytest.raises(RecordError, match="p: stands beside the annotators' votes"):
            parse(record | {"p": 0.75})
    else:
        record, expected = record | {"p": 0.75}, 0.75
    made = parse(record)
    assert made.preferences == (Preference(0, 1, expected, 1.0, 0.5),)
    assert said(made.prompt) == [("user", "?")] and contents(record) == ["a", "b"]
    with pytest.raises(RecordError, match="weight: is not a number"):
        parse(record | {"weight": "much"})


def test_a_fractional_alpaca_eval_preference_is_a_hard_label() -> None:
    assert parse(TWO_SIDES["alpaca_eval"]).preferences == (Preference(0, 1),)


def test_what_a_record_says_of_its_pairs_is_said_of_each_and_but_once() -> None:
    pairs = [[0, 1], {"winner": 2, "loser": 1, "p": 0.75, "margin": None}]
    record = {"prompt": "?", "responses": ["a", "b", "c"], "preferences": pairs}
    made = parse(record | {"margin": 1, "weight": 5})
    assert made.preferences == (Preference(0, 1, 1.0, 1.0, 5.0), Preference(2, 1, 0.75, 1.0, 5.0))
    with pytest.raises(RecordError, match="p: stands beside a pair's own"):
        parse(record | {"p": 0.9})


@pytest.mark.parametrize("name", TWO_SIDES)
def test_a_system_column_opens_the_prompt_of_every_form(name: str) -> None:
    record = TWO_SIDES[name]
    made = parse(record | {"system": "Be brief."})
    assert said(made.prompt) == [("system", "Be brief."), ("user", "?")]
    assert replace(made, prompt=made.prompt[1:]) == parse(record)
    for nothing in (None, ""):
        assert parse(record | {"system": nothing, "history": []}) == parse(record)
    with pytest.raises(RecordError, match="system: is not text"):
        parse(record | {"system": {"role": "system"}})


@pytest.mark.parametrize("name", TWO_SIDES)
def test_history_comes_between_the_system_turn_and_the_question(name: str) -> None:
    record = TWO_SIDES[name] | {"history": [["u1", "a1"], ["u2", "a2"]]}
    earlier = [("user", "u1"), ("assistant", "a1"), ("user", "u2"), ("assistant", "a2"), ("user", "?")]
    assert said(parse(record).prompt) == earlier
    made = parse(record | {"system": "s"})
    assert said(made.prompt) == [("system", "s"), *earlier]
    assert made.responses == parse(TWO_SIDES[name]).responses
    for bad in ("u1", ["u1", "a1"], [["u1"]], [["u1", 3]], [talk("u1", "a1")]):
        with pytest.raises(RecordError, match="history: is "):
            parse(record | {"history": bad})


def test_a_system_column_and_a_system_turn_must_agree() -> None:
    record = {"chosen": talk("s", "?", "a", first="system"), "rejected": talk("s", "?", "b", first="system")}
    sharegpt = TWO_SIDES["sharegpt"] | {
        "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "?"}]
    }
    listed = {"prompt": talk("s", "?", first="system"), "chosen": "a", "rejected": "b"}
    for one in (record, sharegpt, listed):
        assert said(parse(one | {"system": "s"}).prompt) == [("system", "s"), ("user", "?")]
        with pytest.raises(RecordError, match="system: differs from the prompt's system turn"):
            parse(one | {"system": "t"})


def test_history_beside_a_longer_prompt_is_refused() -> None:
    record = {"prompt": talk("u1", "a1", "?"), "chosen": "a", "rejected": "b", "history": [["u1", "a1"]]}
    with pytest.raises(RecordError, match="history: stands beside a prompt of several turns"):
        parse(record)


QUESTION = [("user", "?")]
WITH_SYSTEM = [("system", "s"), ("user", "?")]


@pytest.mark.parametrize(
    ("prompt", "sides", "expected"),
    [
        ("?", [talk("?", "a"), talk("?", "b")], QUESTION),
        ("?", ["a", talk("?", "b")], QUESTION),
        ("? ", [talk("?", "a"), talk(" ?", "b")], [("user", "? ")]),
        ("?", [talk("s", "?", "a", first="system"), talk("s", "?", "b", first="system")], WITH_SYSTEM),
        (talk("s", "?", first="system"), [talk("?", "a"), talk("s", "?", "b", first="system")], WITH_SYSTEM),
        (talk("s", "?", first="system"), ["a", talk("b", first="assistant")], WITH_SYSTEM),
    ],
)
@pytest.mark.parametrize("fields", [("chosen", "rejected"), ("response_a", "response_b")])
def test_the_prompt_is_never_doubled(prompt: Any, sides: list[Any], expected: Any, fields: tuple[str, str]) -> None:
    record = {"prompt": prompt, "label": "A"} | dict(zip(fields, sides, strict=True))
    assert said(parse(record).prompt) == expected
    assert [said(response) for response in parse(record).responses] == [[("assistant", "a")], [("assistant", "b")]]


def test_a_system_column_beside_whole_conversations() -> None:
    record = {"prompt": "?", "chosen": talk("?", "a"), "rejected": talk("s", "?", "b", first="system"), "system": "s"}
    assert said(parse(record).prompt) == WITH_SYSTEM and contents(record) == ["a", "b"]


@pytest.mark.parametrize(
    "rejected",
    [
        talk("s", "?", "b", first="system"),  # only one of them has the system turn
        talk("another", "b"),
        talk("u1", "a1", "?", "b"),  # the prompt is not where it begins
        [{"role": "tool", "content": "2"}, *talk("?", "b")],
    ],
)
def test_turns_before_the_answer_that_are_not_the_prompts_are_refused(rejected: list[dict[str, str]]) -> None:
    with pytest.raises(RecordError, match="rejected: has system or user turns before its first answer"):
        parse({"prompt": "?", "chosen": talk("?", "a"), "rejected": rejected})


def test_dialogues_that_part_at_a_users_turn_are_refused() -> None:
    record = {"chosen": talk("?", "a"), "rejected": [*talk("?"), *talk("more", "b")]}
    with pytest.raises(RecordError, match="rejected: has system or user turns before its first answer"):
        parse(record)
    sharegpt = TWO_SIDES["sharegpt"] | {"chosen": [{"from": "human", "value": "!"}, {"from": "gpt", "value": "a"}]}
    with pytest.raises(RecordError, match="chosen: has system or user turns before its first answer"):
        parse(sharegpt)


def test_sharegpt_rankings() -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}]
    record = {
        "conversations": turns,
        "chosen": {"from": "gpt", "value": "x"},
        "rejected": {"from": "gpt", "value": "y"},
    }
    made = parse(record | {"system": "Be brief."})
    assert detect(record) == "sharegpt"
    assert [(m.role, m.content) for m in made.prompt] == [
        ("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c")
    ]  # fmt: skip
    assert made.responses == ((Message("assistant", "x"),), (Message("assistant", "y"),))
    with pytest.raises(RecordError, match=r"conversations\.from: is not known.*turn 0"):
        parse(record | {"conversations": [{"from": "boss", "value": "a"}]})


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (1, [(0, 1)]), (2, [(1, 0)]), (2.0, [(1, 0)]), ("2", [(1, 0)]), (None, []), ("A", [(0, 1)]),
        ("model_b", [(1, 0)]), ("response_2", [(1, 0)]), ("tie", []), ("tie (bothbad)", []),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["label", "winner", "preference"])
def test_two_sides_and_a_label(label: Any, expected: list[tuple[int, int]], name: str) -> None:
    record = {"prompt": "?", "response_1": "a", "response_2": "b", name: label}
    assert detect(record) == "two_sides" and pairs(record) == expected and contents(record) == ["a", "b"]


@pytest.mark.parametrize("label", [0, 0.0, "0", -1, 1.5, 3, True, False, float("nan"), "tied up", [1]])
def test_a_label_that_may_mean_another_side_is_refused_with_what_to_write(label: Any) -> None:
    record = {"prompt": "?", "response_1": "a", "response_2": "b", "label": label}
    with pytest.raises(
        RecordError, match=r'label: does not say who won.*1 or 2 \(the first is 1\), "A" or "B".*"tie" or null'
    ):
        parse(record)


def test_two_whole_conversations_and_a_winner() -> None:
    sides = {"conversation_a": talk("?", "x"), "conversation_b": talk("?", "y")}
    record = sides | {"winner": "model_b", "model_a": "m"}
    assert contents(record) == ["x", "y"] and pairs(record) == [(1, 0)]


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ((2, 2, 2), [(1, 0, 1.0)]),
        ((1, 2, 1), [(0, 1, 2 / 3)]),
        ((0, 2, 0), [(1, 0, 1.0)]),
        ((1, 2, 0), []),
        ((0, 0, 0), []),
    ],
)
def test_pandalm_votes(votes: tuple[int, ...], expected: list[tuple[int, int, float]]) -> None:
    record: dict[str, Any] = {"instruction": "Shorten.", "input": "A long text.", "response1": "x", "response2": "y"}
    made = parse(record | {f"annotator{i}": vote for i, vote in enumerate(votes, 1)})
    assert made.prompt == (Message("user", "Shorten.\n\nA long text."),)
    assert [(p.winner, p.loser, p.p) for p in made.preferences] == expected


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"prompt": "?", "responses": ["a", "b"], "scores": [1]}, "scores"),
        ({"prompt": "?", "responses": ["a", "b"], "scores": [1, float("nan")]}, "scores"),
        ({"prompt": "?", "responses": ["a", "b"], "ranks": [1, "2"]}, "ranks"),
        ({"prompt": "?", "responses": ["a", "b"], "ranks": [1, 2], "chosen": 0}, "ranks"),
        ({"prompt": "?", "response_1": "a", "response_2": "b"}, "label"),
        ({"prompt": "?", "response_1": "a", "response_2": "b", "label": 3}, "label"),
        ({"prompt": "?", "response_a": "a", "response_b": "b", "label": 1}, "label"),
        ({"response_a": "a", "response_b": "b", "label": "A"}, "prompt"),
        ({"prompt": "?", "response1": "a", "response2": "b", "annotator1": 3}, "annotator1"),
        ({"prompt": "?", "chosen": "a", "rejected": "b", "margin": 10**400}, "margin"),
        ({"conversations": [{"from": "human"}], "chosen": {}, "rejected": {}}, "conversations.value"),
        ({"conversations": ["hi"], "chosen": {}, "rejected": {}}, "conversations"),
    ],
)
def test_what_does_not_say_is_named(record: dict[str, Any], field: str) -> None:
    with pytest.raises(RecordError) as caught:
        parse(record)
    assert caught.value.field == field and caught.value.remedy
