"""Forms beyond the native one: who won, by how much, and what is said of records that do not say."""

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


@pytest.mark.parametrize("record", [
    {"prompt": "?", "chosen": "a", "rejected": "b"},
    {"chosen": "\n\nHuman: ?\n\nAssistant: a", "rejected": "\n\nHuman: ?\n\nAssistant: b"},
    {"conversations": [{"from": "human", "value": "?"}], "chosen": {"from": "gpt", "value": "a"},
     "rejected": {"from": "gpt", "value": "b"}},
    {"question": "?", "response_a": "a", "response_b": "b", "winner": "A"},
])  # fmt: skip
def test_probability_margin_and_weight_beside_any_two_sides(record: dict[str, Any]) -> None:
    made = parse(record | {"p": 0.75, "margin": 1, "weight": 0.5})
    assert made.preferences == (Preference(0, 1, 0.75, 1.0, 0.5),)
    assert [m.content for m in made.prompt] == ["?"]
    with pytest.raises(RecordError, match="weight: is not a number"):
        parse(record | {"weight": "much"})


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
        (1, [(0, 1)]), (2, [(1, 0)]), (0, []), (None, []), ("A", [(0, 1)]), ("model_b", [(1, 0)]),
        ("response_2", [(1, 0)]), ("tie", []), ("tie (bothbad)", []),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["label", "winner", "preference"])
def test_two_sides_and_a_label(label: Any, expected: list[tuple[int, int]], name: str) -> None:
    record = {"prompt": "?", "response_1": "a", "response_2": "b", name: label}
    assert detect(record) == "two_sides" and pairs(record) == expected and contents(record) == ["a", "b"]


def test_two_whole_conversations_and_a_winner() -> None:
    def talk(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]

    record = {"conversation_a": talk("x"), "conversation_b": talk("y"), "winner": "model_b", "model_a": "m"}
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
