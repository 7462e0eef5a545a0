"""What people answer about a pair: a choice between left and right, and what it says of candidates 1 and 2."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from skyrm_jax.curate.humans.batch import CANDIDATE, FIRST, SECOND, UNDECIDABLE

Choice = Literal[
    "left much better",
    "left better",
    "about equal",
    "right better",
    "right much better",
    "both good",
    "both bad",
    "cannot decide",
]

CHOICES: tuple[Choice, ...] = get_args(Choice)
"""The five-point scale, then other ways of saying equal, then what discards the pair."""

_SCALE: dict[Choice, int | None] = {
    "left much better": 2,
    "left better": 1,
    "about equal": 0,
    "right better": -1,
    "right much better": -2,
    "both good": 0,
    "both bad": 0,
    "cannot decide": None,
}

_HALF = re.compile("[\ud800-\udfff]")

LONGEST = 20_000
"""Characters of a note, a rationale, or a text of an attribute, at most."""
LONGEST_LINK = 2_000
MOST_LINKS = 50


@dataclass(frozen=True, slots=True)
class Given:
    """What one person says of one item, as they saw it.

    Attributes:
        choice: one of CHOICES.
        attributes: those of the five that they changed, by name.
        tools: what they used, in words.
        links: addresses (http or https) of what they looked up.
        note: in words; may be empty.
        seconds: of active time.
    """

    choice: Choice
    attributes: Mapping[str, str] = field(default_factory=dict)
    tools: str = ""
    links: tuple[str, ...] = ()
    note: str = ""
    seconds: float = 0.0


def verdict(choice: Choice, swapped: bool) -> str:
    """The choice as one of batch.VERDICTS; `swapped`: candidate 2 was on the left."""
    side = _SCALE[choice]
    if not side:
        return UNDECIDABLE
    return FIRST if (side > 0) != swapped else SECOND


def scale(choice: Choice, swapped: bool) -> int | None:
    """The choice from -2 (candidate 2 much better) to 2 (candidate 1 much better); None where nothing was decided."""
    side = _SCALE[choice]
    return -side if swapped and side is not None else side


def side(verdict: str, swapped: bool) -> str:
    """One of batch.VERDICTS in terms of what was seen: "left", "right" or "undecidable"."""
    if verdict == UNDECIDABLE:
        return UNDECIDABLE
    return "left" if (verdict == FIRST) != swapped else "right"


def speak_of_sides(words: str, swapped: bool) -> str:
    """Words of others about candidates 1 and 2 -> about the left and the right one.

    Half of a character, which no page can hold, becomes U+FFFD.
    """
    whole = _HALF.sub("\ufffd", words)
    return CANDIDATE.sub(lambda match: f"{'left' if (match[2] == '1') != swapped else 'right'} candidate", whole)
