"""The record everything speaks: one prompt, K >= 1 responses to it, and which of them are preferred.

`parse` reads every accepted shape of record (see FORMS) and `to_record` writes the native one.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from skyrm_jax.errors import RecordError

ROLES = ("system", "user", "assistant", "tool")
NATIVE = "see the README for the accepted shapes of records"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is one of ROLES."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Preference:
    """Response `winner` is preferred to response `loser` (indexes into the responses).

    Attributes:
        p: the probability, 0 to 1, that the winner is the better one (1: a hard label).
        margin: by how much the winner's reward should exceed the loser's.
        weight: of this pair in the loss; at least 0.
    """

    winner: int
    loser: int
    p: float = 1.0
    margin: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt and K >= 1 responses to it.

    Attributes:
        prompt: the shared messages; the last is not an assistant's.
        responses: for each response the messages that follow the prompt, usually one by the assistant.
        preferences: ordered pairs of responses; none when they are unlabelled or tied.
        id, source, category: names for reports; may be empty.
    """

    prompt: tuple[Message, ...]
    responses: tuple[tuple[Message, ...], ...]
    preferences: tuple[Preference, ...] = ()
    id: str = ""
    source: str = ""
    category: str = ""

    @classmethod
    def of(
        cls,
        prompt: str | Sequence[Mapping[str, Any] | Message],
        responses: Sequence[str | Sequence[Mapping[str, Any] | Message]],
        preferences: Iterable[Preference | Sequence[int] | Mapping[str, Any]] | None = None,
        chosen: int | Sequence[int] | None = None,
        id: str = "",
        source: str = "",
        category: str = "",
    ) -> Self:
        """A comparison of plain values: text stands for one user (prompt) or assistant (response) message.

        `chosen` names the response, or responses, preferred to all the others, instead of `preferences`.
        Raises RecordError for values of a wrong type; `check` looks at what they mean.
        """
        parsed = tuple(_messages(f"responses[{k}]", r, "assistant") for k, r in enumerate(responses))
        if chosen is not None:
            if preferences is not None:
                raise RecordError("chosen", "stands beside 'preferences'", "give one of the two")
            preferences = _chosen(chosen, len(parsed))
        return cls(
            prompt=_messages("prompt", prompt, "user"),
            responses=parsed,
            preferences=tuple(_preference(i, p) for i, p in enumerate(preferences or ())),
            id=id,
            source=source,
            category=category,
        )

    def conversation(self, k: int) -> tuple[Message, ...]:
        """The whole conversation of response `k`."""
        return self.prompt + self.responses[k]

    def check(self, training: bool) -> None:
        """Raises RecordError unless this can be scored and, with `training`, learned from."""
        if not any(message.role == "user" for message in self.prompt):
            raise RecordError("prompt", "has no user turn", "a comparison needs a prompt shared by all its responses")
        if self.prompt[-1].role == "assistant":
            raise RecordError(
                "prompt", "ends in an assistant turn", "move that turn to the beginning of every response"
            )
        if not self.responses:
            raise RecordError("responses", "is empty", "give at least one response")
        for k, response in enumerate(self.responses):
            if not response or response[-1].role != "assistant":
                raise RecordError(
                    "responses",
                    "does not end in an assistant turn",
                    "give the assistant's message",
                    f"response {k}",
                )
        for preference in self.preferences:
            self._check_preference(preference, training)

    def _check_preference(self, preference: Preference, training: bool) -> None:
        winner, loser, count = preference.winner, preference.loser, len(self.responses)
        if not (0 <= winner < count and 0 <= loser < count):
            raise RecordError(
                "preferences",
                "names a response that is not there",
                "count responses from 0",
                f"[{winner}, {loser}] of {count}",
            )
        if winner == loser:
            raise RecordError("preferences", "prefers a response to itself", "remove that pair", f"[{winner}, {loser}]")
        if not 0 <= preference.p <= 1:
            raise RecordError("preferences.p", "is not a probability", "give 0 to 1", str(preference.p))
        if not math.isfinite(preference.margin):
            raise RecordError("preferences.margin", "is not finite", "give a number", str(preference.margin))
        if not 0 <= preference.weight < math.inf:
            raise RecordError(
                "preferences.weight", "is not a weight", "give a number of at least 0", str(preference.weight)
            )
        if training and self.responses[winner] == self.responses[loser]:
            raise identical_responses(winner, loser)


def identical_responses(winner: int, loser: int) -> RecordError:
    """The error of a training pair whose two sides are the same."""
    return RecordError(
        "responses",
        "identical responses, one preferred to the other",
        "remove the record: nothing can be learned from it",
        f"[{winner}, {loser}]",
    )


def parse(record: Mapping[str, Any], form: str = "auto") -> Comparison:
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


def detect(record: Mapping[str, Any]) -> str:
    """The form of a record by the fields that it has; raises RecordError if it is none of FORMS."""

    def has(*names: str) -> bool:
        return all(record.get(name) is not None for name in names)

    if has("responses"):
        return "native"
    if has("instruction", "output_1", "output_2") and "preference" in record:
        return "alpaca_eval"
    if has("prompt", "chosen", "rejected"):
        return "prompt_chosen_rejected"
    if has("chosen", "rejected"):
        return "hh_rlhf" if isinstance(record["chosen"], str) else "chosen_rejected"
    raise RecordError(
        "record",
        f"has the fields of no known form ({', '.join(FORMS)})",
        NATIVE,
        f"fields {sorted(map(str, record))!r:.200}",
    )


def to_record(comparison: Comparison) -> dict[str, Any]:
    """The native form, plain values for JSON: `parse(to_record(c)) == c`."""

    def plain(messages: Sequence[Message], role: str) -> str | list[dict[str, str]]:
        if len(messages) == 1 and messages[0].role == role:
            return messages[0].content
        return [{"role": m.role, "content": m.content} for m in messages]

    def pair(p: Preference) -> list[int] | dict[str, float]:
        if p == Preference(p.winner, p.loser):
            return [p.winner, p.loser]
        return {"winner": p.winner, "loser": p.loser, "p": p.p, "margin": p.margin, "weight": p.weight}

    record: dict[str, Any] = {
        "prompt": plain(comparison.prompt, "user"),
        "responses": [plain(response, "assistant") for response in comparison.responses],
        "preferences": [pair(p) for p in comparison.preferences],
    }
    names = {"id": comparison.id, "source": comparison.source, "category": comparison.category}
    return record | {name: value for name, value in names.items() if value}


def _native(record: Mapping[str, Any]) -> Comparison:
    """{"prompt", "responses": [...], "preferences": [[winner, loser], ...] or "chosen": index or indexes}."""
    responses = _list("responses", _field(record, "responses"))
    preferences = record.get("preferences")
    return Comparison.of(
        _field(record, "prompt"),
        responses,
        None if preferences is None else _list("preferences", preferences),
        record.get("chosen"),
        **_names(record),
    )


def _chosen_rejected(record: Mapping[str, Any]) -> Comparison:
    """{"chosen", "rejected"}: whole conversations as message lists, with the same first turns (Skywork's)."""
    return _split(
        _messages("chosen", _list("chosen", _field(record, "chosen")), "assistant"),
        _messages("rejected", _list("rejected", _field(record, "rejected")), "assistant"),
        record,
    )


def _prompt_chosen_rejected(record: Mapping[str, Any]) -> Comparison:
    """{"prompt", "chosen", "rejected"}: two answers, or two whole conversations starting with the prompt."""
    prompt = _messages("prompt", _field(record, "prompt"), "user")
    responses = []
    for name in ("chosen", "rejected"):
        response = _messages(name, _field(record, name), "assistant")
        repeats = len(response) > len(prompt) and response[: len(prompt)] == prompt
        responses.append(response[len(prompt) :] if repeats else response)
    return Comparison(prompt, tuple(responses), (Preference(0, 1),), **_names(record))


def _hh_rlhf(record: Mapping[str, Any]) -> Comparison:
    r"""{"chosen", "rejected"}: whole dialogues as text, turns marked "\n\nHuman: " and "\n\nAssistant: "."""
    return _split(_dialogue("chosen", record), _dialogue("rejected", record), record)


def _alpaca_eval(record: Mapping[str, Any]) -> Comparison:
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
    if not _number(score) or not (1 <= score <= 2 or score == 0):
        raise RecordError("preference", "is not between 1 and 2", "give 1 to 2, or null for a tie", repr(score))
    tie = score in (0, 1.5)
    winner = int(score > 1.5)
    return Comparison(
        (Message("user", _text("instruction", _field(record, "instruction"))),),
        tuple((Message("assistant", _text(name, _field(record, name))),) for name in ("output_1", "output_2")),
        () if tie else (Preference(winner, 1 - winner),),
        **({"category": _name(record, "generator_2")} | {k: v for k, v in _names(record).items() if v}),
    )


FORMS: dict[str, Callable[[Mapping[str, Any]], Comparison]] = {
    "native": _native,
    "chosen_rejected": _chosen_rejected,
    "prompt_chosen_rejected": _prompt_chosen_rejected,
    "hh_rlhf": _hh_rlhf,
    "alpaca_eval": _alpaca_eval,
}
"""The accepted shapes of records; each function's docstring says which fields it reads."""


def _field(record: Mapping[str, Any], name: str) -> Any:
    value = record.get(name)
    if value is None:
        raise RecordError(name, "is missing", NATIVE)
    return value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _list(field: str, value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise RecordError(field, "is not a list", NATIVE, type(value).__name__)
    return value


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RecordError(field, "is not text", "give a string", type(value).__name__)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            field,
            "is not valid Unicode",
            "save the file as UTF-8",
            f"lone surrogate at character {error.start}",
        ) from None
    return value


def _name(record: Mapping[str, Any], field: str) -> str:
    """A name for reports: text, or a whole number as text; empty when it is absent."""
    value = record.get(field)
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else _text(field, value)


def _names(record: Mapping[str, Any]) -> dict[str, str]:
    return {field: _name(record, field) for field in ("id", "source", "category")}


def _messages(field: str, value: Any, role: str) -> tuple[Message, ...]:
    """Messages of a list of {"role", "content"}; text stands for one message of `role`."""
    if isinstance(value, str):
        return (Message(role, _text(field, value)),)
    if not isinstance(value, list | tuple):
        raise RecordError(field, "is neither text nor a list of messages", NATIVE, type(value).__name__)
    return tuple(_message(field, i, message) for i, message in enumerate(value))


def _message(field: str, i: int, value: Any) -> Message:
    """One message. Unknown fields are errors: chat templates read some, and a reward would change."""
    if isinstance(value, Message):
        value = {"role": value.role, "content": value.content}
    if not isinstance(value, Mapping):
        raise RecordError(field, "holds a message that is not an object", NATIVE, f"message {i}")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise RecordError(f"{field}.role", "is not known", f"use {', '.join(ROLES)}", f"message {i}: {role!r:.80}")
    if content is None:
        raise RecordError(f"{field}.content", "is missing", "give a string", f"message {i}")
    unread = [name for name, v in value.items() if name not in ("role", "content") and v not in (None, "", [], {})]
    if unread:
        raise RecordError(
            field,
            "holds a message with a field that is not read",
            "put it into 'content', or remove it",
            f"message {i}: {unread[0]!r:.80}",
        )
    return Message(role, _text(f"{field}.content", content))


def _preference(i: int, value: Any) -> Preference:
    """A preference from [winner, loser] or {"winner", "loser", "p", "margin", "weight"}."""
    if isinstance(value, Preference):
        return value
    if isinstance(value, list | tuple) and len(value) == 2:
        value = {"winner": value[0], "loser": value[1]}
    if not isinstance(value, Mapping):
        raise RecordError("preferences", "holds no pair", "give [winner, loser] pairs", f"entry {i}")
    unknown = set(value) - {"winner", "loser", "p", "margin", "weight"}
    if unknown:
        detail = f"entry {i}: {min(unknown, key=str)!r:.80}"
        raise RecordError("preferences", "has a field that is not known", "remove it", detail)
    for name in ("winner", "loser"):
        if not isinstance(value.get(name), int) or isinstance(value[name], bool):
            raise RecordError(f"preferences.{name}", "is not the index of a response", "count from 0", f"entry {i}")
    numbers = {name: v for name, v in value.items() if v is not None and name in ("p", "margin", "weight")}
    for name, v in numbers.items():
        if not _number(v):
            raise RecordError(f"preferences.{name}", "is not a number", "give a number", f"entry {i}")
    try:
        return Preference(value["winner"], value["loser"], **{name: float(v) for name, v in numbers.items()})
    except OverflowError:
        raise RecordError("preferences", "holds a number too large", "give a smaller one", f"entry {i}") from None


def _chosen(chosen: Any, count: int) -> list[Preference]:
    """Each chosen response is preferred to each of the others."""
    indexes = [chosen] if isinstance(chosen, int) else list(_list("chosen", chosen))
    if any(not isinstance(k, int) or isinstance(k, bool) or not 0 <= k < count for k in indexes):
        raise RecordError("chosen", "names a response that is not there", "count responses from 0", repr(chosen))
    return [Preference(w, k) for w in dict.fromkeys(indexes) for k in range(count) if k not in indexes]


def _split(chosen: tuple[Message, ...], rejected: tuple[Message, ...], record: Mapping[str, Any]) -> Comparison:
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
    return Comparison(chosen[:shared], (chosen[shared:], rejected[shared:]), (Preference(0, 1),), **_names(record))


_TURN = re.compile(r"\n\n(Human|Assistant):")


def _dialogue(field: str, record: Mapping[str, Any]) -> tuple[Message, ...]:
    before, *turns = _TURN.split(_text(field, _field(record, field)))
    if before.strip() or not turns:
        raise RecordError(field, r"does not begin with '\n\nHuman: '", "name the right form, or add the 'prompt' field")
    roles = {"Human": "user", "Assistant": "assistant"}
    # Blanks around a turn belong to the markers, not to what was said.
    return tuple(Message(roles[who], said.strip()) for who, said in zip(turns[::2], turns[1::2], strict=True))
