"""What the pages show, made from what the store gives. An annotator's page holds no label and no opinion before the
answer, nothing that tells a gold check from other items, and speaks of left and right alone."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from skyrm_jax.annotate.difference import beginnings, difference
from skyrm_jax.annotate.given import CHOICES, Choice, Given, speak_of_sides
from skyrm_jax.annotate.rendering import Body, Segment, raw, rendered, visible
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
    "u": "undo: take the last answer or flag back",
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
FIELDS = {"choice": "Your answer", "why": "Your reason", "note": "Note", "tools": "Tools used", "links": "Links"}
"""Of forms, other than attributes."""

SIDES = {"left": "Left better", "right": "Right better", "undecidable": "Cannot decide"}
"""Verdicts of others."""

REFUSALS = {
    "unknown": "There is no such page",
    "not yours": "This pair is somebody else's",
    "stale": "This page is out of date",
    "duplicate": "This answer is already kept",
    "invalid": "This answer cannot be kept as it is",
    "nothing": "There is nothing to undo",
}
"""Titles of what the store refuses, by its reason."""

DONE = {
    "answered": "Answer kept.",
    "flagged": "Flagged: somebody will look at this pair.",
    "undone": "Taken back. You can give the same answer again, or another.",
    "explained": "Rationale kept.",
}
"""What a page says first, by the word in its address."""

_CANDIDATE = re.compile(r"\b(left|right) candidate\b")
_BEGIN = re.compile(r"(?:^|(?<=[.!?]\s)|(?<=\n))(?:left|right)(?= response\b)|^[a-z]{2,}(?=[\s,.;:])")


@dataclass(frozen=True, slots=True)
class Part:
    """A message; `name` finds it again, as in "left-0"."""

    name: str
    role: str
    body: Body
    asks: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """A response. `checks` are what models have said of it before, as mappings with name, verdict and why: which models
    they are is not told, lest their renown decides."""

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
    asks = max((i for i, message in enumerate(shown.item.prompt) if message.role == "user"), default=-1)
    conversation = tuple(
        Part(f"prompt-{i}", message.role, _body(message, view), i == asks)
        for i, message in enumerate(shown.item.prompt)
    )
    left, right = _sides(shown)
    if view != "difference":
        one, two = ([_body(message, view) for message in messages] for messages in (left, right))
        return Texts(view, conversation, (_panel(shown, "left", left, one), _panel(shown, "right", right, two)))
    found = difference([message.content for message in left], [message.content for message in right])
    one, two = _compared(left, found.left), _compared(right, found.right)
    panels = _panel(shown, "left", left, one), _panel(shown, "right", right, two)
    return Texts(view, conversation, panels, round(100 * found.shared), found.whole)


def filled_of(shown: Shown, said: Mapping[str, str] | Given | None) -> Filled:
    """The fields as the item has them, under what was said before: in a refused form, or in an answer taken back."""
    known = {name: "" for name in NAMES} if shown.item.attributes is None else shown.item.attributes.row()
    if said is None:
        return Filled(attributes=known)
    if isinstance(said, Given):
        return Filled(said.choice, known | dict(said.attributes), said.tools, "\n".join(said.links), said.note)
    attributes = {name: said.get(name, value) for name, value in known.items()}
    return Filled(said.get("choice", ""), attributes, *(said.get(name, "") for name in ("tools", "links", "note")))


def written(form: Mapping[str, str]) -> dict[str, str]:
    """What somebody wrote into a form, by the names that the fields have on the page."""
    return {words: form[name] for name, words in (FIELDS | ATTRIBUTE_WORDS).items() if form.get(name, "").strip()}


def spoken(words: str) -> str:
    """What models say of a pair, in the words of the page."""
    said = visible(_CANDIDATE.sub(r"\1 response", words)).strip()
    return _BEGIN.sub(lambda match: match[0].capitalize(), said)


def render(template: str, **values: Any) -> str:
    """A page."""
    return _ENVIRONMENT.get_template(template).render(**values)


def _sides(shown: Shown) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    one, two = shown.item.candidates
    return (two, one) if shown.swapped else (one, two)


def _panel(shown: Shown, side: str, messages: Sequence[Message], bodies: Sequence[Body]) -> Panel:
    candidate = 1 if (side == "left") != shown.swapped else 2
    numbers = {who: i for i, who in enumerate(dict.fromkeys(check["who"] for check in shown.checks), 1)}
    checks = tuple(
        {
            "name": f"Check {numbers[check['who']]}" if len(numbers) > 1 else "Check",
            "verdict": str(check["verdict"]),
            "why": spoken(speak_of_sides(str(check.get("why", "")), shown.swapped)),
        }
        for check in shown.checks
        if check["candidate"] == candidate
    )
    parts = tuple(
        Part(f"{side}-{i}", message.role, body) for i, (message, body) in enumerate(zip(messages, bodies, strict=True))
    )
    return Panel(side, parts, sum(b.characters for b in bodies), sum(b.words for b in bodies), checks)


def _body(message: Message, view: View) -> Body:
    return raw(message.content) if view == "raw" else rendered(message.content, message.role)


def _compared(messages: Sequence[Message], marked: Sequence[Markup]) -> list[Body]:
    """Messages as the difference shows them."""
    bodies = []
    texts = [message.content for message in messages]
    for text, shown, html in zip(texts, beginnings(texts), marked, strict=True):
        words = len(text.split())
        bodies.append(Body((Segment("text", html, words, len(text), len(shown)),), len(text), words))
    return bodies


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
_ENVIRONMENT.filters |= {"said_time": said_time, "visible": visible, "spoken": spoken}
