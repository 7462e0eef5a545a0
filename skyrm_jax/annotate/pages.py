"""What the pages show, made from what the store gives. An annotator's page holds no label and no opinion before the
answer, nothing that tells a gold check from other items, and speaks of left and right alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined

from skyrm_jax.annotate.difference import difference
from skyrm_jax.annotate.given import CHOICES, Choice, Given, speak_of_sides
from skyrm_jax.annotate.rendering import Body, Segment, raw, rendered
from skyrm_jax.annotate.values import Shown
from skyrm_jax.comparison import Message
from skyrm_jax.curate.attributes import NAMES
from skyrm_jax.curate.humans.verified import CHOICES as CHOOSABLE
from skyrm_jax.report.page_style import said_time

View = Literal["rendered", "raw", "difference"]
VIEWS: tuple[View, ...] = get_args(View)

KEYS: dict[Choice, str] = dict(zip(CHOICES, "12345gbx", strict=True))
"""The key of each choice."""

ROWS: tuple[tuple[Choice, ...], ...] = (CHOICES[:5], CHOICES[5:])
"""The scale, and the rest."""

WORK_KEYS = {
    "Enter": "confirm the chosen answer",
    "Ctrl+Enter": "the same, from within a text field",
    "Esc": "leave a text field, close a box",
    "u": "undo: take the last answer back",
    "f": "flag this pair for those who run the work",
    "d": "show which words differ",
    "r": "show the raw texts",
    "s": "scroll both responses together, or not",
    "e": "edit the attributes and the guideline",
    "n": "write down tools, links, a note",
    "?": "show the keys",
}

ATTRIBUTE_WORDS = {
    "task_category": "Task category",
    "preference_objectivity": "Preference",
    "controversiality": "Controversiality",
    "desired_attributes": "A good response has",
    "annotation_guideline": "How to judge this pair",
}
SIDES = {"left": "Left better", "right": "Right better", "undecidable": "Cannot decide"}
"""Verdicts of others."""

REFUSALS = {
    "unknown": "There is no such page",
    "not yours": "This pair is somebody else's",
    "stale": "This pair has gone back into the queue",
    "duplicate": "This answer is already kept",
    "invalid": "This answer cannot be kept as it is",
    "nothing": "There is nothing to undo",
}
"""Titles of what the store refuses, by its reason."""

DONE = {
    "answered": "Answer kept.",
    "flagged": "Flagged: somebody will look at this pair.",
    "undone": "Your last answer is taken back. You can give it again, or another.",
    "explained": "Rationale kept.",
}
"""What a page says first, by the word in its address."""


@dataclass(frozen=True, slots=True)
class Part:
    """A message; `name` finds it again, as in "left-0"."""

    name: str
    role: str
    body: Body
    asks: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """A response. `checks` are what models have said of it before, as mappings with who, verdict and why."""

    side: str
    parts: tuple[Part, ...]
    characters: int
    words: int
    checks: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of an item. `shared` is set in the view of differences: percent of the words that both have."""

    view: View
    conversation: tuple[Part, ...]
    panels: tuple[Panel, Panel]
    shared: int | None = None
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Filled:
    """What stands in the fields of an answer when its page opens."""

    choice: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    tools: str = ""
    links: str = ""
    note: str = ""


def messages_of(shown: Shown) -> dict[str, Message]:
    """The messages of an item by the names of their parts."""
    left, right = _sides(shown)
    named = {"prompt": shown.item.prompt, "left": left, "right": right}
    return {f"{name}-{i}": message for name, messages in named.items() for i, message in enumerate(messages)}


def texts_of(shown: Shown, view: View) -> Texts:
    """An item's texts, ready to be shown in one of VIEWS."""
    draw = raw if view == "raw" else rendered
    asks = max((i for i, message in enumerate(shown.item.prompt) if message.role == "user"), default=-1)
    conversation = tuple(
        Part(f"prompt-{i}", message.role, draw(message.content), i == asks)
        for i, message in enumerate(shown.item.prompt)
    )
    left, right = _sides(shown)
    if view != "difference":
        panels = tuple(
            _panel(shown, side, tuple(Part(f"{side}-{i}", m.role, draw(m.content)) for i, m in enumerate(messages)))
            for side, messages in (("left", left), ("right", right))
        )
        return Texts(view, conversation, (panels[0], panels[1]))
    found = difference(_one_text(left), _one_text(right))
    sides = {"left": (left, found.left), "right": (right, found.right)}
    panels = tuple(
        _panel(shown, side, (Part(f"{side}-0", messages[0].role if messages else "", _body(messages, html)),))
        for side, (messages, html) in sides.items()
    )
    return Texts(view, conversation, (panels[0], panels[1]), round(100 * found.shared), found.whole)


def filled_of(shown: Shown, said: Mapping[str, str] | Given | None) -> Filled:
    """The fields as the item has them, under what was said before: in a refused form, or in an answer taken back."""
    known = {name: "" for name in NAMES} if shown.item.attributes is None else shown.item.attributes.row()
    if said is None:
        return Filled(attributes=known)
    if isinstance(said, Given):
        return Filled(said.choice, known | dict(said.attributes), said.tools, "\n".join(said.links), said.note)
    attributes = {name: said.get(name, value) for name, value in known.items()}
    return Filled(said.get("choice", ""), attributes, *(said.get(name, "") for name in ("tools", "links", "note")))


def render(template: str, **values: Any) -> str:
    """A page."""
    return _ENVIRONMENT.get_template(template).render(**values)


def _sides(shown: Shown) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    one, two = shown.item.candidates
    return (two, one) if shown.swapped else (one, two)


def _panel(shown: Shown, side: str, parts: tuple[Part, ...]) -> Panel:
    candidate = 1 if (side == "left") != shown.swapped else 2
    checks = tuple(
        {
            "who": str(check["who"]),
            "verdict": str(check["verdict"]),
            "why": speak_of_sides(str(check.get("why", "")), shown.swapped),
        }
        for check in shown.checks
        if check["candidate"] == candidate
    )
    return Panel(side, parts, sum(p.body.characters for p in parts), sum(p.body.words for p in parts), checks)


def _one_text(messages: Sequence[Message]) -> str:
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages)


def _body(messages: Sequence[Message], html: Any) -> Body:
    characters = sum(len(message.content) for message in messages)
    words = sum(len(message.content.split()) for message in messages)
    return Body((Segment("text", html, words),), characters, words, characters)


_ENVIRONMENT = Environment(
    loader=PackageLoader("skyrm_jax.annotate"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.globals |= {
    "KEYS": KEYS,
    "ROWS": ROWS,
    "WORK_KEYS": WORK_KEYS,
    "ATTRIBUTE_WORDS": ATTRIBUTE_WORDS,
    "CHOOSABLE": CHOOSABLE,
    "SIDES": SIDES,
}
_ENVIRONMENT.filters["said_time"] = said_time
