"""What people give, as it is kept: names, texts, answers. What cannot be kept is refused in words for them."""

import math
import unicodedata
from dataclasses import replace

from skyrm_jax.annotate.given import CHOICES, LONGEST, LONGEST_LINK, MOST_LINKS, Given
from skyrm_jax.annotate.values import Refused
from skyrm_jax.curate.attributes import Attributes
from skyrm_jax.curate.humans.batch import UNDECIDABLE, Item
from skyrm_jax.curate.humans.verified import parse_answer
from skyrm_jax.errors import RecordError, UserError


def legal_name(name: str) -> str:
    """A name as it is kept; raises UserError if it cannot be one."""
    name = unicodedata.normalize("NFC", name.strip())
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise UserError(f"name {name[:80]!r} must have 1 to 64 characters, all of them printable")
    return name


def words(what: str, value: str) -> str:
    """A text that somebody must give; raises Refused."""
    if not value.strip():
        raise Refused("invalid", f"The {what} is empty; say it in a few words.")
    return _text(what, value)


def _text(what: str, value: str) -> str:
    if len(value) > LONGEST:
        raise Refused("invalid", f"The {what} has {len(value):,} characters; {LONGEST:,} are the most that is kept.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused("invalid", f"The {what} holds characters that are no valid Unicode; remove them.") from None
    return value.strip()


def checked(given: Given, item: Item, who: str) -> Given:
    """What was given, as it is kept: only attributes that differ from the item's; raises Refused."""
    if given.choice not in CHOICES:
        raise Refused("invalid", f"The answer {given.choice!r:.80} is not known; choose one of: {', '.join(CHOICES)}.")
    if not math.isfinite(given.seconds):
        raise Refused("invalid", "The time spent is not a number.")
    if len(given.links) > MOST_LINKS:
        raise Refused("invalid", f"{len(given.links)} links were given; {MOST_LINKS} are the most that are kept.")
    for link in given.links:
        if not link.lower().startswith(("http://", "https://")) or len(link) > LONGEST_LINK or not link.isprintable():
            raise Refused("invalid", f"The link {link!r:.80} is no address; give one that begins with https://.")
    for name, value in given.attributes.items():
        _text(f"attribute {name!r:.40}", value)
    own = {} if item.attributes is None else item.attributes.row()
    try:
        answer = {"batch": item.batch, "item": item.item, "verdict": UNDECIDABLE, "annotator": who}
        parsed = parse_answer(answer | {"attributes": dict(given.attributes)}, "")
    except RecordError as error:
        raise Refused("invalid", f"{error}.") from None
    assert parsed is not None
    changed = {name: value for name, value in parsed.attributes.items() if value != own.get(name)}
    if changed and Attributes.of(own | changed) is None:
        raise Refused("invalid", "This item has no attributes; give all five of them, or none.")
    return replace(given, attributes=changed, tools=_text("tools", given.tools), note=_text("note", given.note))
