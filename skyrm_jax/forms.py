"""The accepted shapes of records of data files, and how to tell them apart.

Every form gives a `Comparison`. What a record says of its pairs beyond who won may stand beside the responses of any
form with two sides: `p`, the probability that the chosen one is the better, `margin` and `weight`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from skyrm_jax.comparison import NATIVE, Comparison, Message, Preference, messages, number, sequence, text
from skyrm_jax.errors import RecordError

Record = Mapping[str, Any]

SIDES = (
    ("output_1", "output_2"),
    ("response_1", "response_2"),
    ("response1", "response2"),
    ("answer_1", "answer_2"),
    ("output_a", "output_b"),
    ("response_a", "response_b"),
    ("answer_a", "answer_b"),
    ("conversation_a", "conversation_b"),
)
"""Names of two responses that a label chooses from."""
LABELS = ("label", "winner", "preference", "better")
PROMPTS = ("prompt", "instruction", "question", "input")


def parse(record: Any, form: str = "auto") -> Comparison:
    """The comparison that a record of a data file holds; `form` is one of FORMS, or `auto` to detect it.

    A tie has no preferences. Raises RecordError, naming field and remedy, for an unknown form and for a
    field missing or of a wrong type; `Comparison.check` looks at what the values mean.
    """
    if not isinstance(record, Mapping):
        raise RecordError("record", "is not an object", "give one JSON object per record", type(record).__name__)
    if form == "auto":
        form = detect(record)
    if form not in FORMS:
        raise RecordError("form", "is not known", f"choose from auto, {', '.join(FORMS)}", repr(form))
    return FORMS[form](record)


def detect(record: Record) -> str:
    """The form of a record by the fields that it has; raises RecordError if it is none of FORMS."""

    def has(*names: str) -> bool:
        return all(record.get(name) is not None for name in names)

    if has("responses"):
        return "native"
    if has("instruction", "output_1", "output_2") and "preference" in record:
        return "alpaca_eval"
    if has("conversations", "chosen", "rejected"):
        return "sharegpt"
    if has("response1", "response2", "annotator1"):
        return "pandalm"
    if any(has(*sides) for sides in SIDES):
        return "two_sides"
    if has("chosen", "rejected") and any(has(name) for name in PROMPTS):
        return "prompt_chosen_rejected"
    if has("chosen", "rejected"):
        return "hh_rlhf" if isinstance(record["chosen"], str) else "chosen_rejected"
    raise RecordError(
        "record",
        f"has the fields of no known form ({', '.join(FORMS)})",
        NATIVE,
        f"fields {sorted(map(str, record))!r:.200}",
    )


def native(record: Record) -> Comparison:
    """K responses to a prompt, and one of: `preferences` [[winner, loser], ...], `chosen` index or indexes, `scores`
    (more is better) or `ranks` (1 is best), one for each response; equal ones are ties."""
    responses = sequence("responses", _field(record, "responses"))
    said = [name for name in ("preferences", "chosen", "scores", "ranks") if record.get(name) is not None]
    if len(said) > 1:
        raise RecordError(said[1], f"stands beside {said[0]!r}", "give one of the two")
    preferences: Any = record.get("preferences")
    if said and said[0] in ("scores", "ranks"):
        preferences = _ranked(said[0], record[said[0]], len(responses))
    return Comparison.of(
        _field(record, "prompt"),
        responses,
        None if preferences is None else sequence("preferences", preferences),
        record.get("chosen"),
        **_names(record),
    )


def chosen_rejected(record: Record) -> Comparison:
    """{"chosen", "rejected"}: whole conversations as message lists, with the same first turns (Skywork's)."""
    return _split(
        messages("chosen", sequence("chosen", _field(record, "chosen")), "assistant"),
        messages("rejected", sequence("rejected", _field(record, "rejected")), "assistant"),
        record,
    )


def prompt_chosen_rejected(record: Record) -> Comparison:
    """{"prompt", "chosen", "rejected"}: answers, or whole conversations starting with the prompt; each side one or a
    list of several, every chosen one being preferred to every rejected one."""
    prompt = _prompt(record)
    sides = [[_answer(name, one, prompt) for one in _several(_field(record, name))] for name in ("chosen", "rejected")]
    count = len(sides[0])
    pairs = [(winner, count + loser) for winner in range(count) for loser in range(len(sides[1]))]
    facts = _pair_facts(record)
    preferences = tuple(Preference(winner, loser, **facts) for winner, loser in pairs)
    return Comparison(prompt, (*sides[0], *sides[1]), preferences, **_names(record))


def hh_rlhf(record: Record) -> Comparison:
    r"""{"chosen", "rejected"}: whole dialogues as text, turns marked "\n\nHuman: " and "\n\nAssistant: "."""
    return _split(_dialogue("chosen", record), _dialogue("rejected", record), record)


def sharegpt(record: Record) -> Comparison:
    """{"conversations": [{"from", "value"}, ...], "chosen", "rejected"}: a dialogue and two continuations."""
    prompt = _turns("conversations", sequence("conversations", _field(record, "conversations")))
    system = record.get("system")
    if system:
        prompt = (Message("system", text("system", system)), *prompt)
    responses = []
    for name in ("chosen", "rejected"):
        value = _field(record, name)
        responses.append(_turns(name, value if isinstance(value, list | tuple) else [value]))
    return Comparison(prompt, tuple(responses), (Preference(0, 1, **_pair_facts(record)),), **_names(record))


def two_sides(record: Record) -> Comparison:
    """Two responses (see SIDES) and who won (see LABELS): 1 or 2, "A" or "B", "model_a", the name of the field, "tie"."""
    sides = next((pair for pair in SIDES if all(record.get(name) is not None for name in pair)), None)
    if sides is None:
        raise RecordError("record", "has no two responses", f"name them, for example, {' and '.join(SIDES[0])}")
    prompt = None if sides[0].startswith("conversation") else _prompt(record)
    label = next((name for name in LABELS if name in record), None)
    if label is None:
        raise RecordError("label", "is missing", f"give one of {', '.join(LABELS)}; null for a tie")
    winner = _winner(label, record[label], sides)
    if prompt is None:
        one, other = (messages(name, sequence(name, record[name]), "assistant") for name in sides)
        made = _split(one, other, record)
        prompt, responses = made.prompt, made.responses
    else:
        responses = tuple(_answer(name, record[name], prompt) for name in sides)
    preferences = () if winner is None else (Preference(winner, 1 - winner, **_pair_facts(record)),)
    return Comparison(prompt, responses, preferences, **_names(record))


def pandalm(record: Record) -> Comparison:
    """{"instruction", "input", "response1", "response2", "annotator1" ...}: votes of 0 (tie), 1 or 2.

    `p` is the winner's share of the votes that are no ties; as many votes for one as for the other are a tie.
    """
    votes = []
    for name in sorted(name for name in record if re.fullmatch(r"annotator\d+", name)):
        if record[name] not in (0, 1, 2) or isinstance(record[name], bool):
            raise RecordError(name, "is no vote", "give 0 for a tie, 1 or 2", repr(record[name]))
        votes.append(record[name])
    first, second = votes.count(1), votes.count(2)
    winner = int(second > first)
    preferences = () if first == second else (Preference(winner, 1 - winner, max(first, second) / (first + second)),)
    prompt = _prompt(record)
    sides = [_field(record, name) for name in ("response1", "response2")]
    # The published file has lost the quotes around answers such as "True".
    answers = [str(value) if isinstance(value, int) else value for value in sides]
    responses = tuple(_answer(f"response{i}", answer, prompt) for i, answer in enumerate(answers, 1))
    return Comparison(prompt, responses, preferences, **_names(record))


def alpaca_eval(record: Record) -> Comparison:
    """{"instruction", "output_1", "output_2", "preference"}: an AlpacaEval annotation.

    `preference` runs from 1 (output_1) to 2 (output_2); 1.5, 0 (AlpacaEval's older code for a draw) and null
    are ties. The responses keep their order, [output_1, output_2].
    """
    if record.get("input"):
        raise RecordError("input", "is not read by the form alpaca_eval", "join it to 'instruction'")
    if "preference" not in record:
        raise RecordError("preference", "is missing", "give 1 to 2, or null for a tie")
    score = record["preference"]
    if score is None:
        score = 1.5
    if not number(score) or not (1 <= score <= 2 or score == 0):
        raise RecordError("preference", "is not between 1 and 2", "give 1 to 2, or null for a tie", repr(score))
    tie = score in (0, 1.5)
    winner = int(score > 1.5)
    return Comparison(
        (Message("user", text("instruction", _field(record, "instruction"))),),
        tuple((Message("assistant", text(name, _field(record, name))),) for name in ("output_1", "output_2")),
        () if tie else (Preference(winner, 1 - winner),),
        **({"category": _name(record, "generator_2")} | {k: v for k, v in _names(record).items() if v}),
    )


FORMS: dict[str, Callable[[Record], Comparison]] = {
    "native": native,
    "chosen_rejected": chosen_rejected,
    "prompt_chosen_rejected": prompt_chosen_rejected,
    "hh_rlhf": hh_rlhf,
    "sharegpt": sharegpt,
    "two_sides": two_sides,
    "pandalm": pandalm,
    "alpaca_eval": alpaca_eval,
}
"""The accepted shapes of records; each function's docstring says which fields it reads."""


def _field(record: Record, name: str) -> Any:
    value = record.get(name)
    if value is None:
        raise RecordError(name, "is missing", NATIVE)
    return value


def _name(record: Record, field: str) -> str:
    """A name for reports: text, or a whole number as text; empty when it is absent."""
    value = record.get(field)
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else text(field, value)


def _names(record: Record) -> dict[str, str]:
    return {field: _name(record, field) for field in ("id", "source", "category")}


def _pair_facts(record: Record) -> dict[str, float]:
    """`p`, `margin` and `weight` of the record's pairs, where they are given."""
    facts: dict[str, float] = {}
    for name in ("p", "margin", "weight"):
        value = record.get(name)
        if value is None:
            continue
        if not number(value):
            raise RecordError(name, "is not a number", "give a number", repr(value)[:80])
        try:
            facts[name] = float(value)
        except OverflowError:
            raise RecordError(name, "is too large", "give a smaller number") from None
    return facts


def _ranked(field: str, values: Any, count: int) -> list[Preference]:
    """A preference for every two responses whose scores or ranks differ, the better one first."""
    values = sequence(field, values)
    if len(values) != count:
        raise RecordError(field, "is not as long as 'responses'", "give one for each", f"{len(values)} for {count}")
    for value in values:
        if not number(value) or value != value:
            raise RecordError(field, "holds what is not a number", "give a number for each", repr(value)[:80])
    pairs = []
    for i, k in combinations(range(count), 2):
        if values[i] != values[k]:
            first = (values[i] > values[k]) == (field == "scores")
            pairs.append(Preference(i, k) if first else Preference(k, i))
    return pairs


def _prompt(record: Record) -> tuple[Message, ...]:
    """The prompt under any of its names; Alpaca's `input` follows its `instruction`."""
    name = next((name for name in PROMPTS if record.get(name) is not None), None)
    if name is None:
        raise RecordError("prompt", "is missing", f"give one of {', '.join(PROMPTS)}")
    prompt = messages(name, record[name], "user")
    context = record.get("input")
    if name == "instruction" and context and prompt:
        said = prompt[-1]
        joined = f"{said.content}\n\n{text('input', context)}"
        prompt = (*prompt[:-1], Message(said.role, joined))
    return prompt


def _several(value: Any) -> Sequence[Any]:
    """The responses of one side: the value, or the elements of a list that is no message list."""
    is_list = isinstance(value, list | tuple)
    return value if is_list and value and all(isinstance(one, str | list | tuple) for one in value) else [value]


def _answer(field: str, value: Any, prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    """A response: text, or messages, which may begin with the prompt's."""
    response = messages(field, value, "assistant")
    repeats = len(response) > len(prompt) and response[: len(prompt)] == prompt
    return response[len(prompt) :] if repeats else response


def _winner(field: str, value: Any, sides: tuple[str, str]) -> int | None:
    """0 or 1, or None for a tie."""
    if value is None:
        return None
    if isinstance(value, str):
        word = value.strip().lower()
        if word.startswith("tie") or word in ("both", "neither", "none", "draw", ""):
            return None
        for winner, names in enumerate((("a", "1", "first", "model_a"), ("b", "2", "second", "model_b"))):
            if word in (*names, sides[winner]):
                return winner
    elif number(value) and sides[0].endswith("1") and value in (0, 1, 2):
        return None if value == 0 else int(value) - 1
    raise RecordError(
        field, "does not say who won", f"give {sides[0]!r}, {sides[1]!r} or null for a tie", repr(value)[:80]
    )


_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def _turns(field: str, values: Sequence[Any]) -> tuple[Message, ...]:
    """Messages of {"from", "value"} objects."""
    turns = []
    for number_, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise RecordError(field, "holds a turn that is not an object", NATIVE, f"turn {number_}")
        speaker = value.get("from")
        if not isinstance(speaker, str) or speaker not in _SPEAKERS:
            known = ", ".join(_SPEAKERS)
            raise RecordError(f"{field}.from", "is not known", f"use {known}", f"turn {number_}: {speaker!r:.80}")
        content = value.get("value")
        if content is None:
            raise RecordError(f"{field}.value", "is missing", "give a string", f"turn {number_}")
        turns.append(Message(_SPEAKERS[speaker], text(f"{field}.value", content)))
    return tuple(turns)


def _split(chosen: tuple[Message, ...], rejected: tuple[Message, ...], record: Record) -> Comparison:
    """Two whole conversations as a prompt, their longest common turns, and two responses.

    The prompt ends before an assistant turn, so that equal assistant turns stay in the responses.
    """
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and chosen[shared - 1].role == "assistant":
        shared -= 1
    if not shared:
        raise RecordError(
            "rejected",
            "shares no prompt with 'chosen'",
            "both must begin with the same turns, up to a user turn",
        )
    preference = Preference(0, 1, **_pair_facts(record))
    return Comparison(chosen[:shared], (chosen[shared:], rejected[shared:]), (preference,), **_names(record))


_TURN = re.compile(r"\n\n(Human|Assistant):")


def _dialogue(field: str, record: Record) -> tuple[Message, ...]:
    before, *turns = _TURN.split(text(field, _field(record, field)))
    if before.strip() or not turns:
        raise RecordError(field, r"does not begin with '\n\nHuman: '", "name the right form, or add the 'prompt' field")
    roles = {"Human": "user", "Assistant": "assistant"}
    # Blanks around a turn belong to the markers, not to what was said.
    return tuple(Message(roles[who], said.strip()) for who, said in zip(turns[::2], turns[1::2], strict=True))
