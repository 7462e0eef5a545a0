"""The accepted shapes of records of data files, and how to tell them apart.

Every form gives a `Comparison`. A record of any form may also have

- `p`, the probability that the winner is the better one, `margin` and `weight`: of each of its pairs;
- `system`: text that becomes the prompt's first turn, unless that is the same system turn already;
- `history`: [[user, assistant], ...], earlier turns of a prompt that is one user turn (LLaMA-Factory's Alpaca form).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product, takewhile
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
TIES = ("tie", "tie (bothbad)", "draw", "both", "neither", "none", "")


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
    (more is better) or `ranks` (1 is best), one for each response; equal ones are ties.

    A pair of `preferences` may also be an object: {"winner", "loser", "p", "margin", "weight"}.
    """
    responses = sequence("responses", _field(record, "responses"))
    said = [name for name in ("preferences", "chosen", "scores", "ranks") if record.get(name) is not None]
    if len(said) > 1:
        raise RecordError(said[1], f"stands beside {said[0]!r}", "give one of the two")
    preferences: Any = record.get("preferences")
    if said and said[0] in ("scores", "ranks"):
        preferences = _ranked(said[0], record[said[0]], len(responses))
    made = Comparison.of(
        _field(record, "prompt"),
        responses,
        None if preferences is None else sequence("preferences", preferences),
        record.get("chosen"),
        **_names(record),
    )
    facts = _pair_facts(record)
    for name in facts:
        if any(isinstance(pair, Mapping) and pair.get(name) is not None for pair in preferences or ()):
            raise RecordError(name, "stands beside a pair's own", "give it for the record or for its pairs")
    pairs = tuple(replace(pair, **facts) for pair in made.preferences) if facts else made.preferences
    return replace(made, prompt=_context(record, made.prompt), preferences=pairs)


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
    chosen, rejected = ([(name, one) for one in _several(_field(record, name))] for name in ("chosen", "rejected"))
    prompt, responses = _answers(_prompt(record), chosen + rejected)
    pairs = product(range(len(chosen)), range(len(chosen), len(responses)))
    facts = _pair_facts(record)
    preferences = tuple(Preference(winner, loser, **facts) for winner, loser in pairs)
    return Comparison(prompt, responses, preferences, **_names(record))


def hh_rlhf(record: Record) -> Comparison:
    r"""{"chosen", "rejected"}: whole dialogues as text, turns marked "\n\nHuman: " and "\n\nAssistant: "."""
    return _split(_dialogue("chosen", record), _dialogue("rejected", record), record)


def sharegpt(record: Record) -> Comparison:
    """{"conversations": [{"from", "value"}, ...], "chosen", "rejected"}: a dialogue and two continuations."""
    turns = _turns("conversations", sequence("conversations", _field(record, "conversations")))
    sides = []
    for name in ("chosen", "rejected"):
        value = _field(record, name)
        sides.append((name, _turns(name, value if isinstance(value, list | tuple) else [value])))
    prompt, responses = _answers(_context(record, turns), sides)
    return Comparison(prompt, responses, (Preference(0, 1, **_pair_facts(record)),), **_names(record))


def two_sides(record: Record) -> Comparison:
    """Two responses (see SIDES) and who won (see LABELS).

    The label is the name of the winner's field; "A" or "B", "model_a" or "model_b", "first" or "second", "1" or "2";
    the number 1 or 2 if the fields are numbered; null or one of TIES for a tie. The number 0 is refused: it is a tie in
    some files and the first response in others.
    """
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
        prompt, responses = _answers(prompt, [(name, record[name]) for name in sides])
    facts = _pair_facts(record)
    preferences = () if winner is None else (Preference(winner, 1 - winner, **facts),)
    return Comparison(prompt, responses, preferences, **_names(record))


def pandalm(record: Record) -> Comparison:
    """{"instruction", "input", "response1", "response2", "annotator1" ...}: votes of 0 (tie), 1 or 2.

    `p` is the winner's share of the votes that are no ties; as many votes for one as for the other are a tie.
    """
    facts = _pair_facts(record)
    if "p" in facts:
        raise RecordError("p", "stands beside the annotators' votes", "give one of the two")
    votes = []
    for name in sorted(name for name in record if re.fullmatch(r"annotator\d+", name)):
        if record[name] not in (0, 1, 2) or isinstance(record[name], bool):
            raise RecordError(name, "is no vote", "give 0 for a tie, 1 or 2", repr(record[name]))
        votes.append(record[name])
    first, second = votes.count(1), votes.count(2)
    winner = int(second > first)
    if first != second:
        facts["p"] = max(first, second) / (first + second)
    preferences = () if first == second else (Preference(winner, 1 - winner, **facts),)
    sides = [(name, _field(record, name)) for name in ("response1", "response2")]
    # The published file has lost the quotes around answers such as "True".
    answers = [(name, str(value) if isinstance(value, int) else value) for name, value in sides]
    prompt, responses = _answers(_prompt(record), answers)
    return Comparison(prompt, responses, preferences, **_names(record))


def alpaca_eval(record: Record) -> Comparison:
    """{"instruction", "output_1", "output_2", "preference"}: an AlpacaEval annotation.

    `preference` runs from 1 (output_1) to 2 (output_2); 1.5, 0 (AlpacaEval's older code for a draw) and null
    are ties. The benchmark's rule makes it a hard label: above 1.5 output_2 has won, below it output_1, so 1.1 says
    no less than 1; give `p` for a soft one. The responses keep their order, [output_1, output_2].
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
    facts = _pair_facts(record)
    return Comparison(
        _context(record, (Message("user", text("instruction", _field(record, "instruction"))),)),
        tuple((Message("assistant", text(name, _field(record, name))),) for name in ("output_1", "output_2")),
        () if tie else (Preference(winner, 1 - winner, **facts),),
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


def _pair_facts(record: Record) -> dict[str, Any]:
    """`p`, `margin` and `weight` of the record's pairs, as floats, where they are given."""
    facts = {}
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
    """The prompt under any of its names, with its context; Alpaca's `input` follows its `instruction`."""
    name = next((name for name in PROMPTS if record.get(name) is not None), None)
    if name is None:
        raise RecordError("prompt", "is missing", f"give one of {', '.join(PROMPTS)}")
    prompt = messages(name, record[name], "user")
    context = record.get("input")
    if name == "instruction" and context and prompt:
        said = prompt[-1]
        joined = f"{said.content}\n\n{text('input', context)}"
        prompt = (*prompt[:-1], Message(said.role, joined))
    return _context(record, prompt)


def _context(record: Record, prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    """The prompt after the record's `system` and `history`, where there are any."""
    if "system" not in record and "history" not in record:
        return prompt
    system, history = (record.get(name) for name in ("system", "history"))
    start = int(_has_system(prompt))
    head, rest = prompt[:start], prompt[start:]
    if system not in _NOTHING:
        turn = Message("system", text("system", system))
        if head and _trimmed(head) != _trimmed((turn,)):
            raise RecordError("system", "differs from the prompt's system turn", "give one of the two")
        head = head or (turn,)
    if history in _NOTHING:
        return (*head, *rest)
    if [message.role for message in rest] != ["user"]:
        raise RecordError(
            "history", "stands beside a prompt of several turns", "put its turns at the beginning of the prompt"
        )
    turns = []
    for pair in sequence("history", history):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RecordError("history", "is no list of pairs", "give [user, assistant] pairs of text", repr(pair)[:80])
        turns += [Message(role, text("history", said)) for role, said in zip(("user", "assistant"), pair, strict=True)]
    return (*head, *turns, *rest)


_NOTHING: tuple[Any, ...] = (None, "", [], {})


def _trimmed(turns: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.content.strip()) for message in turns]


def _has_system(turns: tuple[Message, ...]) -> bool:
    """Whether they begin with a system turn."""
    return bool(turns) and turns[0].role == "system"


def _several(value: Any) -> Sequence[Any]:
    """The responses of one side: the value, or the elements of a list that is no message list."""
    is_list = isinstance(value, list | tuple)
    return value if is_list and value and all(isinstance(one, str | list | tuple) for one in value) else [value]


def _answers(
    prompt: tuple[Message, ...], sides: Sequence[tuple[str, Any]]
) -> tuple[tuple[Message, ...], tuple[tuple[Message, ...], ...]]:
    """The prompt, and the responses without it, of text, messages or whole conversations (field and value).

    A whole conversation begins with the prompt's turns, blanks around them aside. It may lack the prompt's system turn; a
    system turn that all of them have and the prompt lacks is added to the prompt.
    """
    read = [(field, messages(field, value, "assistant")) for field, value in sides]
    first = {turns[:1] for _, turns in read}
    if len(first) == 1 and _has_system(*first) and not _has_system(prompt):
        prompt = (*first.pop(), *prompt)
    beginnings = [part for part in (prompt, prompt[int(_has_system(prompt)) :]) if part]
    responses = []
    for field, turns in read:
        repeated = next((len(b) for b in beginnings if _trimmed(turns[: len(b)]) == _trimmed(b)), 0)
        responses.append(_answer(field, turns[repeated:]))
    return prompt, tuple(responses)


def _answer(field: str, response: tuple[Message, ...]) -> tuple[Message, ...]:
    """The response, which must not open with turns of a prompt: the model would read them after the prompt's own."""
    opening = takewhile(lambda message: message.role != "assistant", response)
    if any(message.role in ("system", "user") for message in opening):
        raise RecordError(
            field,
            "has system or user turns before its first answer that are not the prompt's",
            "begin it with the prompt's own turns or with the answer; without a prompt, chosen and rejected are read whole",
        )
    return response


def _winner(field: str, value: Any, sides: tuple[str, str]) -> int | None:
    """0 or 1, or None for a tie."""
    if value is None:
        return None
    if isinstance(value, str):
        word = value.strip().lower()
        if word in TIES:
            return None
        for winner, names in enumerate((("a", "1", "first", "model_a"), ("b", "2", "second", "model_b"))):
            if word in (*names, sides[winner]):
                return winner
    numbered = sides[0].endswith("1")
    if numbered and number(value) and value in (1, 2):
        return int(value) - 1
    counted = "1 or 2 (the first is 1), " if numbered else ""
    remedy = f'give {counted}"A" or "B", {sides[0]!r} or {sides[1]!r}, or, for a tie, "tie" or null'
    raise RecordError(field, "does not say who won", remedy, repr(value)[:80])


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
    responses = (_answer("chosen", chosen[shared:]), _answer("rejected", rejected[shared:]))
    preference = Preference(0, 1, **_pair_facts(record))
    return Comparison(_context(record, chosen[:shared]), responses, (preference,), **_names(record))


_TURN = re.compile(r"\n\n(Human|Assistant):")


def _dialogue(field: str, record: Record) -> tuple[Message, ...]:
    before, *turns = _TURN.split(text(field, _field(record, field)))
    if before.strip() or not turns:
        raise RecordError(field, r"does not begin with '\n\nHuman: '", "name the right form, or add the 'prompt' field")
    roles = {"Human": "user", "Assistant": "assistant"}
    # Blanks around a turn belong to the markers, not to what was said.
    return tuple(Message(roles[who], said.strip()) for who, said in zip(turns[::2], turns[1::2], strict=True))
