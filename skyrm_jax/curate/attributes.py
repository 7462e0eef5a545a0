"""Preference attributes: what a pair is about, and what a good answer to it needs, as language models see it.

Source: section 3.2 of the paper; the value sets are those of the scripts that appear to be its authors'.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

import pyarrow as pa

from skyrm_jax.curate.annotators import Answer, Calls, Fence, Prompt, Request
from skyrm_jax.curate.annotators.reading import objects
from skyrm_jax.curate.pair import Pair
from skyrm_jax.errors import UserError

Category = Literal[
    "Advice seeking",
    "Brainstorming",
    "Coding & Debugging",
    "Creative writing",
    "Data analysis",
    "Editing",
    "Information seeking",
    "Math",
    "Planning",
    "Reasoning",
    "Role playing",
    "Other",
]
Objectivity = Literal["Objective", "Subjective"]
Controversiality = Literal["Low", "Medium", "High"]

CATEGORIES: tuple[Category, ...] = get_args(Category)
OBJECTIVITIES: tuple[Objectivity, ...] = get_args(Objectivity)
CONTROVERSIALITIES: tuple[Controversiality, ...] = get_args(Controversiality)

PURPOSE = "attributes"


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a pair is about, whichever of its responses is the chosen one.

    Attributes:
        task_category: of the prompt.
        preference_objectivity: whether the better response can be told by facts, or is a matter of taste.
        controversiality: how likely people are to disagree about which is better.
        desired_attributes: qualities that a good response has, with commas between them.
        annotation_guideline: how to judge this very pair.
    """

    task_category: Category
    preference_objectivity: Objectivity
    controversiality: Controversiality
    desired_attributes: str
    annotation_guideline: str

    @classmethod
    def of(cls, values: Any) -> Self | None:
        """Attributes of a JSON object that has all five with legal values (in whatever case); None of any other."""
        if not isinstance(values, dict):
            return None
        read: dict[str, Any] = {}
        for name in NAMES:
            value = values.get(name)
            if not isinstance(value, str) or not _is_text(value):
                return None
            read[name] = _LEGAL[name].get(value.strip().casefold()) if name in _LEGAL else value.strip()
        return cls(**read) if all(read.values()) else None

    def row(self) -> dict[str, str]:
        """Plain values for a table: `Attributes.of(attributes.row()) == attributes`."""
        return asdict(self)


NAMES = tuple(field.name for field in fields(Attributes))
_LEGAL: dict[str, dict[str, str]] = {
    name: {value.casefold(): value for value in values}
    for name, values in zip(NAMES, (CATEGORIES, OBJECTIVITIES, CONTROVERSIALITIES), strict=False)
}


@dataclass(frozen=True)
class AttributeOptions:
    """How attributes are asked for.

    Args:
        prompt: `attributes`, or a template file.
        annotators: names of those who are asked. Each pair is first one annotator's, so that they share the work;
            the next ones are asked in turn if that gives no valid answer. Default: all.
        passes: answers asked of each, at most, until one is valid.
        seed: of the order in which responses are shown, and of who is asked first.
    """

    prompt: str = "attributes"
    annotators: list[str] | None = None
    passes: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError naming the field."""
        if self.passes < 1:
            raise UserError(f"attributes.passes must be at least 1, not {self.passes}")


@dataclass(frozen=True, slots=True)
class Labelled:
    """What came of asking for a pair's attributes.

    Attributes:
        pair: its id.
        attributes: None: nobody gave valid ones, and `error` says what happened.
        annotator: who gave them, or was asked last.
        attempts: answers got.
        call: key of the last one's call.
    """

    pair: str
    attributes: Attributes | None
    annotator: str
    attempts: int
    error: str
    call: str

    def row(self) -> dict[str, Any]:
        """Plain values for a table of SCHEMA."""
        values = {name: None for name in NAMES} if self.attributes is None else self.attributes.row()
        return {name: getattr(self, name) for name in _OF_LABELLED} | values

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> Self:
        """The value of a table's row."""
        return cls(attributes=Attributes.of(row), **{name: row[name] for name in _OF_LABELLED})


_OF_LABELLED = tuple(field.name for field in fields(Labelled) if field.name != "attributes")

SCHEMA = pa.schema(
    [
        ("pair", pa.string()),
        *((name, pa.string()) for name in NAMES),
        ("annotator", pa.string()),
        ("attempts", pa.int64()),
        ("error", pa.string()),
        ("call", pa.string()),
    ]
)
"""Columns of a file of attributes."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A pair as a prompt shows it; all three are fenced (see `Fence`)."""

    prompt: str
    candidate_1: str
    candidate_2: str


def label(
    calls: Calls, pairs: Iterable[Pair], options: AttributeOptions, total: int | None = None
) -> Iterator[Labelled]:
    """The pairs' attributes, in the order of the pairs, of which `total` are expected.

    Neither what is asked nor who is asked depends on which response is the chosen one, so that a pair and its flipped
    twin get the same attributes and are paid for once.

    Raises:
        UserError: as `Calls.ask`, or the prompt file does not work.
    """
    prompt = Prompt.load(options.prompt, _example())
    names = calls.names(options.annotators)
    requests = (_request(pair, prompt, names, options.seed) for pair in pairs)
    for answer in calls.ask(requests, parse, options.passes, names, total):
        yield _labelled(answer)


def parse(text: str) -> Attributes | None:
    """The first JSON object in an answer that is legal attributes."""
    return next((found for value in objects(text) if (found := Attributes.of(value)) is not None), None)


def _request(pair: Pair, prompt: Prompt, names: tuple[str, ...], seed: int) -> Request:
    one = pair.unlabelled()
    chance = hashlib.sha256(f"{seed} {one.id}".encode()).digest()
    first, second = one.chosen, one.rejected
    if chance[0] % 2:
        first, second = second, first
    turn = int.from_bytes(chance[1:9], "big") % len(names)
    fence = Fence(message.content for message in (*pair.prompt, *first, *second))
    target = Shown(
        fence.conversation(pair.prompt), fence.response("candidate_1", first), fence.response("candidate_2", second)
    )
    messages = prompt.render(**_values(fence, target))
    return Request(names[turn:] + names[:turn], PURPOSE, messages, prompt.version, tag=pair.id)


def _labelled(answer: Answer[Attributes]) -> Labelled:
    return Labelled(answer.request.tag, answer.value, answer.annotator, answer.attempts, answer.error, answer.call)


def _values(fence: Fence, target: Shown) -> dict[str, Any]:
    """All that a template may use."""
    return {
        "fence": fence.mark,
        "target": target,
        "categories": CATEGORIES,
        "objectivities": OBJECTIVITIES,
        "controversialities": CONTROVERSIALITIES,
    }


def _example() -> dict[str, Any]:
    """Values to try a template on."""
    return _values(Fence([]), Shown("a prompt", "a response", "another"))


def _is_text(value: str) -> bool:
    """Whether it can be written to a file: JSON can hold lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
