"""The record everything speaks: one prompt, K >= 1 responses to it, and which of them are preferred.

`forms.parse` reads every accepted shape of record; `to_record` writes the native one.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from skyrm_jax.errors import RecordError

ROLES = ("system", "user", "assistant", "tool")
LARGEST = 1e30
"""Bound of margins and weights: they are computed with in float32."""
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
        if isinstance(responses, str):
            raise RecordError("responses", "is one text", "give a list of responses", repr(responses[:40]))
        parsed = tuple(messages(f"responses[{k}]", r, "assistant") for k, r in enumerate(responses))
        if chosen is not None:
            if preferences is not None:
                raise RecordError("chosen", "stands beside 'preferences'", "give one of the two")
            preferences = _chosen(chosen, len(parsed))
        return cls(
            prompt=messages("prompt", prompt, "user"),
            responses=parsed,
            preferences=tuple(_preference(i, p) for i, p in enumerate(preferences or ())),
            id=id,
            source=source,
            category=category,
        )

    def conversation(self, k: int) -> tuple[Message, ...]:
        """The whole conversation of response `k`."""
        return self.prompt + self.responses[k]

    def without(self, removed: Collection[int]) -> Self:
        """This without the responses `removed` and the preferences that name them."""
        left = [k for k in range(len(self.responses)) if k not in removed]
        number = {k: i for i, k in enumerate(left)}
        preferences = tuple(
            replace(p, winner=number[p.winner], loser=number[p.loser])
            for p in self.preferences
            if p.winner in number and p.loser in number
        )
        return replace(self, responses=tuple(self.responses[k] for k in left), preferences=preferences)

    def check(self, training: bool) -> None:
        """Raises RecordError unless this can be scored and, with `training`, something can be learned from it."""
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
            if response[0].role in ("system", "user"):
                raise RecordError(
                    "responses", "repeats the prompt", "give what comes after the prompt alone", f"response {k}"
                )
        for preference in self.preferences:
            self._check_preference(preference)
        pairs = [(p.winner, p.loser) for p in self.preferences]
        if training and pairs and all(self.responses[winner] == self.responses[loser] for winner, loser in pairs):
            raise IdenticalResponses(*pairs[0])

    def _check_preference(self, preference: Preference) -> None:
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
        if not abs(preference.margin) < LARGEST:
            raise RecordError("preferences.margin", "is not finite", "give a number", str(preference.margin))
        if not 0 <= preference.weight < LARGEST:
            raise RecordError(
                "preferences.weight", "is not a weight", "give a number of at least 0", str(preference.weight)
            )


class IdenticalResponses(RecordError):
    """A training record all of whose pairs have two equal sides; `winner` and `loser` are the first."""

    def __init__(self, winner: int, loser: int) -> None:
        super().__init__(
            "responses",
            "identical responses, one preferred to the other",
            "remove the record: nothing can be learned from it",
            f"[{winner}, {loser}]",
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


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def sequence(field: str, value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise RecordError(field, "is not a list", NATIVE, type(value).__name__)
    return value


def text(field: str, value: Any) -> str:
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


def messages(field: str, value: Any, role: str) -> tuple[Message, ...]:
    """Messages of a list of {"role", "content"}; text stands for one message of `role`."""
    if isinstance(value, str):
        return (Message(role, text(field, value)),)
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
    return Message(role, text(f"{field}.content", content))


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
        if not number(v):
            raise RecordError(f"preferences.{name}", "is not a number", "give a number", f"entry {i}")
    try:
        return Preference(value["winner"], value["loser"], **{name: float(v) for name, v in numbers.items()})
    except OverflowError:
        raise RecordError("preferences", "holds a number too large", "give a smaller one", f"entry {i}") from None


def _chosen(chosen: Any, count: int) -> list[Preference]:
    """Each chosen response is preferred to each of the others."""
    indexes = [chosen] if isinstance(chosen, int) else list(sequence("chosen", chosen))
    if any(not isinstance(k, int) or isinstance(k, bool) or not 0 <= k < count for k in indexes):
        raise RecordError("chosen", "names a response that is not there", "count responses from 0", repr(chosen))
    return [Preference(w, k) for w in dict.fromkeys(indexes) for k in range(count) if k not in indexes]
