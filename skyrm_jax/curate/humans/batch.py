"""Batches of pairs for people to verify, as JSON lines files.

Batch NAME of a folder is two files. NAME.jsonl goes to the people; an item of it is a function of the two texts, the
seed and the attributes, and the same whichever response the data calls the better one, so that nothing in it tells.
NAME.key.jsonl stays here and maps items back to pairs. Answers that come back lie beside them as NAME.answers*.

An item's name is a digest of the batch's name and of the texts in the order shown: answers to a batch that was made
anew in another order, or from other texts, name no item of it, and cannot be taken for answers to it.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from skyrm_jax.comparison import Message, messages, text
from skyrm_jax.curate.attributes import Attributes
from skyrm_jax.curate.humans.queue import Opinion, Waiting
from skyrm_jax.curate.judge import Verdict
from skyrm_jax.curate.pair import Pair
from skyrm_jax.data.files import expand
from skyrm_jax.data.readers import chunks
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.report.files import whole

T = TypeVar("T")

FIRST, SECOND, UNDECIDABLE = VERDICTS = ("candidate 1", "candidate 2", "undecidable")
"""What people answer."""

BLANK: dict[str, Any] = {"verdict": None, "annotator": None, "seconds": None, "note": "", "time": None}
"""The fields of an item's line that whoever verifies fills in; `attributes` may be changed too."""

CANDIDATE = re.compile(r"(?i)(candidate[\W_]{0,3})([12])\b")
"""Where words speak of one of the two."""

_SEPARATORS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}
"""Ends of lines to some programs, and escapes instead of them."""


@dataclass(frozen=True, slots=True)
class Item:
    """What people see of a pair.

    Attributes:
        item: the item's name.
        batch: the batch's.
        prompt, candidates: the texts, candidates 1 and 2 in this order.
        attributes: None where the pair has none.
        opinions: of others, in words that speak of candidates 1 and 2 as they are shown here.
        checks: whether each candidate by itself is right, as models see it: "who", "candidate" (1 or 2), "verdict"
            ("correct", "incorrect" or "unsure") and "why".
    """

    item: str
    batch: str
    prompt: tuple[Message, ...]
    candidates: tuple[tuple[Message, ...], tuple[Message, ...]]
    attributes: Attributes | None = None
    opinions: tuple[Mapping[str, str], ...] = ()
    checks: tuple[Mapping[str, Any], ...] = ()

    def row(self) -> dict[str, Any]:
        """A line of the file, with blanks for the answer."""
        row = asdict(self)
        for name in ("opinions", "checks"):
            if not row[name]:
                del row[name]
        return row | BLANK


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an item comes from.

    Attributes:
        pair: the pair's id.
        swapped: candidate 1 is the pair's rejected response.
        attributes: as they were sent out.
    """

    pair: str
    swapped: bool
    attributes: Attributes | None

    def verdict(self, answer: str) -> Verdict:
        """What one of VERDICTS says of the pair."""
        if answer == UNDECIDABLE:
            return "none"
        return "original" if (answer == FIRST) != self.swapped else "flipped"

    def shown(self, verdict: Verdict) -> str:
        """The answer that says this of the pair."""
        return next(answer for answer in VERDICTS if self.verdict(answer) == verdict)


@dataclass(frozen=True)
class Key:
    """The origins of a batch's items, by their names, in the order of the batch."""

    batch: str
    origins: Mapping[str, Origin]


def write_batch(folder: Path, name: str, waiting: Sequence[Waiting], seed: int, reveal: bool = False) -> Path:
    """Writes a batch and its key, in the order given; the path of the batch.

    Writing the same batch again changes nothing; another batch takes its place until there are answers.

    Raises:
        UserError: the name is no name for a file; there is no pair, or two of the same texts; people have answered a
            batch of this name that differs from this one.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"batch name {name!r} must consist of letters, digits, _ and -")
    if not waiting:
        raise UserError(f"batch {name}: there is no pair to verify")
    items: dict[str, Item] = {}
    origins: dict[str, Origin] = {}
    for one in waiting:
        item, origin = _item(one, name, seed, reveal)
        if item.item in items:
            raise UserError(
                f"batch {name}: pairs {origins[item.item].pair} and {origin.pair} hold the same two responses; "
                "keep one of them (preprocess finds contradictory pairs)"
            )
        items[item.item], origins[item.item] = item, origin
    path, key = paths(folder, name)
    contents = {
        # The key first: no batch goes out whose answers could not be mapped back.
        key: _lines({"batch": name, "item": item} | asdict(origin) for item, origin in origins.items()),
        path: _lines(item.row() for item in items.values()),
    }
    if all(file.is_file() and file.read_bytes() == content for file, content in contents.items()):
        return path
    if answers := sorted(folder.glob(f"{name}.answers*")):
        raise UserError(f"{path}: cannot be made anew, for {answers[0]} answers it; give the new batch another name")
    for file, content in contents.items():
        with whole(file) as temporary:
            temporary.write_bytes(content)
    return path


def paths(folder: Path, name: str) -> tuple[Path, Path]:
    """The files of a batch and of its key."""
    return folder / f"{name}.jsonl", folder / f"{name}.key.jsonl"


def read_items(path: Path) -> list[Item]:
    """The items of a batch's file; raises UserError if it is none."""
    return [read_item(place, value) for place, value in placed(path)]


def read_item(place: str, value: Any) -> Item:
    """The item of a line, which stands at `place`; raises UserError if it is none."""
    return _read(place, value, item_of)


def read_key(folder: Path, name: str) -> Key:
    """The key of a batch; raises UserError if there is none, or it is damaged or another batch's."""
    return Key(name, dict(each_origin(folder, name)))


def each_origin(folder: Path, name: str) -> Iterator[tuple[str, Origin]]:
    """The names of a batch's items and their origins, in its order; raises as `read_key` does."""
    for place, value in placed(paths(folder, name)[1]):
        item, batch, origin = _read(place, value, _origin_of)
        if batch != name:
            raise UserError(f"{place}: is of batch {batch}, and should be of batch {name}; do not rename batches")
        yield item, origin


def placed(path: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    """The values of a file of JSON lines, or of a JSON list, and where each stands; raises UserError for a bad one."""
    for source in expand([os.fspath(path)]):
        for chunk in chunks(source):
            for line, _, value in chunk.records():
                place = f"{source.name}:{line}"
                if isinstance(value, RecordError):
                    raise UserError(f"{place}: {value}")
                yield place, value


def _item(waiting: Waiting, batch: str, seed: int, reveal: bool) -> tuple[Item, Origin]:
    pair = waiting.pair
    shown = _shown(pair, batch, seed)
    origin = Origin(pair.id, shown.id != pair.id, waiting.attributes)
    said = [Opinion("label", "original")]
    if waiting.p is not None:
        said.append(Opinion("reward model", *_reward_model(waiting.p)))
    item = Item(
        _digest(batch, shown.id),
        batch,
        shown.prompt,
        (shown.chosen, shown.rejected),
        waiting.attributes,
        tuple(_opinion(opinion, origin) for opinion in (*said, *waiting.opinions)) if reveal else (),
    )
    return item, origin


def _shown(pair: Pair, batch: str, seed: int) -> Pair:
    """The pair turned so that `chosen` is candidate 1; the same for the pair and its flip."""
    one = pair.unlabelled()
    return one.flipped() if int(_digest(str(seed), batch, one.id), 16) & 1 else one


def _digest(*parts: str) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _reward_model(p: float) -> tuple[Verdict, str]:
    verdict: Verdict = "none" if p == 0.5 else "original" if p > 0.5 else "flipped"
    return verdict, f"with probability {max(p, 1 - p):.2f}"


def _opinion(opinion: Opinion, origin: Origin) -> dict[str, str]:
    """An opinion in words of the candidates as they are shown."""
    why = opinion.why
    if opinion.swapped != origin.swapped:
        why = CANDIDATE.sub(lambda m: f"{m[1]}{3 - int(m[2])}", why)
    return {"who": opinion.who, "verdict": origin.shown(opinion.verdict), "why": why}


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    # People read and edit these: their language stays legible, and no editor sees a line where there is none.
    # A lone surrogate in what a model said becomes the escape that JSON has for it.
    return b"".join(
        json.dumps(row, ensure_ascii=False).translate(_SEPARATORS).encode(errors="backslashreplace") + b"\n"
        for row in rows
    )


def item_of(value: Any) -> Item:
    """The item of a line's value; raises KeyError, TypeError, ValueError or UserError if it is none."""
    one, two = (messages("candidates", candidate, "assistant") for candidate in value["candidates"])
    prompt = messages("prompt", value["prompt"], "user")
    opinions = tuple(_opinion_of(one) for one in value.get("opinions", ()))
    checks = tuple(_check_of(one) for one in value.get("checks", ()))
    attributes = _attributes_of(value["attributes"])
    name, batch = (text(field, value[field]) for field in ("item", "batch"))
    return Item(name, batch, prompt, (one, two), attributes, opinions, checks)


def _opinion_of(value: Any) -> Mapping[str, str]:
    _require_said("opinions", value, VERDICTS)
    return dict(value)


def _check_of(value: Any) -> Mapping[str, Any]:
    _require_said("checks", value, ("correct", "incorrect", "unsure"))
    if type(value["candidate"]) is not int or value["candidate"] not in (1, 2):
        raise ValueError(f"'candidate' of checks is {value['candidate']!r:.40}; write 1 or 2")
    return dict(value)


def _require_said(field: str, value: Any, verdicts: Sequence[str]) -> None:
    """Raises as `item_of` does unless a value says who thinks what, and why in words if at all."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{field} hold {value!r:.40}, which is no object")
    text(f"{field}.who", value["who"])
    if value["verdict"] not in verdicts:
        raise ValueError(f"'verdict' of {field} is {value['verdict']!r:.40}; write {' or '.join(verdicts)}")
    if not isinstance(value.get("why", ""), str):
        raise TypeError(f"'why' of {field} is {value['why']!r:.40}, which is no text")


def _origin_of(value: Any) -> tuple[str, str, Origin]:
    origin = Origin(value["pair"], value["swapped"], _attributes_of(value["attributes"]))
    if not isinstance(origin.swapped, bool):
        raise ValueError("'swapped' is neither true nor false")
    return value["item"], value["batch"], origin


def _attributes_of(value: Any) -> Attributes | None:
    if value is None:
        return None
    attributes = Attributes.of(value)
    if attributes is None:
        raise ValueError("'attributes' are not legal")
    return attributes


def _read(place: str, value: Any, parse: Callable[[Any], T]) -> T:
    try:
        return parse(value)
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{place}: is not a line of a batch ({type(error).__name__}: {error}); write the batch again, as it was"
        ) from None
