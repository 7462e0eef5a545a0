"""What people answered -> verdicts on pairs.

An answer is a line of a JSON lines file:

    {"batch": ..., "item": ..., "verdict": "candidate 1", "annotator": "ann"}

`verdict` is one of VERDICTS. It may also have `attributes` (those of the five that were changed, or all of them),
`seconds` (spent), `note` and `time` (ISO 8601). An item's own line with the blanks filled in is one too: what it holds
of the texts is passed over, and so is a line whose verdict is null. Argilla's records are read by `argilla.py`.
"""

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Any

from skyrm_jax.comparison import LARGEST, number, text
from skyrm_jax.curate.attributes import CATEGORIES, CONTROVERSIALITIES, NAMES, OBJECTIVITIES, Attributes
from skyrm_jax.curate.humans.batch import VERDICTS, Key, Origin, placed
from skyrm_jax.curate.judge import Verdict
from skyrm_jax.errors import RecordError, UserError

FIELDS = ("batch", "item", "verdict", "annotator", "attributes", "seconds", "note", "time")
SHOWN = ("prompt", "candidates", "opinions", "checks")
"""Fields of an answer, and those of an item that are passed over."""

CHOICES: dict[str, Sequence[str]] = {
    "task_category": CATEGORIES,
    "preference_objectivity": OBJECTIVITIES,
    "controversiality": CONTROVERSIALITIES,
}
"""Legal values of the attributes that are no free text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one annotator says of one item.

    Attributes:
        verdict: one of VERDICTS.
        attributes: what was given of them, by name.
        seconds: spent on it; None if not known.
        time: when, ISO 8601; may be empty.
        place: file and line, for messages.
    """

    batch: str
    item: str
    verdict: str
    annotator: str
    attributes: Mapping[str, str]
    seconds: float | None
    note: str
    time: str
    place: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What people say of a pair.

    Attributes:
        pair_id: of the pair as it stands in the pool.
        verdict: of more than half of the annotators; "none" also where there is no such majority.
        annotators: who answered, sorted.
        attributes: as people changed them; None if nobody did.
    """

    pair_id: str
    verdict: Verdict
    annotators: tuple[str, ...]
    attributes: Attributes | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far annotators agree on the items that several of them answered.

    Attributes:
        items: those items.
        share: of the pairs of answers to the same item, how many are the same; 0 to 1.
        alpha: Krippendorff's, for nominal values; None where all answers are the same. Of answers as they were given:
            annotators do not know the label, so what they agree on by chance is candidates 1 and 2, not "original".
    """

    items: int
    share: float
    alpha: float | None


@dataclass(frozen=True)
class Imported:
    """What a batch has come to.

    Attributes:
        verified: in the order of the batch.
        waiting: ids of its pairs with too few answers, which stay in the queue.
        agreement: None where no two annotators answered the same item.
    """

    verified: tuple[Verified, ...]
    waiting: tuple[str, ...]
    agreement: Agreement | None


def read_answers(paths: Sequence[str | os.PathLike[str]]) -> list[Answer]:
    """The answers that the files hold.

    Raises:
        UserError: a file is missing or empty, or a line is no answer; it names the line.
    """
    answers = []
    for path in paths:
        for place, value in placed(path):
            try:
                answers.append(parse_answer(value, place))
            except RecordError as error:
                raise UserError(f"{place}: {error}") from None
    return [answer for answer in answers if answer is not None]


def parse_answer(value: Any, place: str) -> Answer | None:
    """The answer that a line's value is; None for an item that nobody has answered. Raises RecordError."""
    if not isinstance(value, Mapping):
        raise RecordError("answer", "is not an object", "give one JSON object per line", type(value).__name__)
    if unknown := sorted(set(value) - {*FIELDS, *SHOWN}):
        raise RecordError(unknown[0], "is not known", f"give {', '.join(FIELDS)}")
    if "verdict" not in value:
        raise RecordError("verdict", "is missing", f"give {_one_of(VERDICTS)}, or null if it is still open")
    if value["verdict"] is None:
        return None
    if value["verdict"] not in VERDICTS:
        raise RecordError("verdict", "is not known", f"give {_one_of(VERDICTS)}", repr(value["verdict"])[:80])
    seconds = value.get("seconds")
    if seconds is not None and not (number(seconds) and 0 <= seconds < LARGEST):
        raise RecordError("seconds", "is not a time spent", "give a number of at least 0", repr(seconds)[:80])
    time = text("time", value.get("time") or "")
    try:
        datetime.fromisoformat(time or "2000-01-01")
    except ValueError:
        raise RecordError("time", "is not a time", "write it like 2025-07-02T13:30:00+00:00", time[:80]) from None
    return Answer(
        batch=_words("batch", value.get("batch")),
        item=_words("item", value.get("item")),
        verdict=value["verdict"],
        annotator=_words("annotator", value.get("annotator")),
        attributes=_attributes(value.get("attributes")),
        seconds=None if seconds is None else float(seconds),
        note=text("note", value.get("note") or ""),
        time=time,
        place=place,
    )


def verify(key: Key, answers: Iterable[Answer], annotators: int = 1) -> Imported:
    """Verdicts on the pairs of a batch that at least `annotators` people have answered.

    The same answers give the same result in any order, and as often as they are given. Of several people's attributes
    those count that most of them gave, or else those of the first of them by name.

    Raises:
        UserError: an answer is of another batch or to no item of this one, or its attributes are not whole or not
            legal; somebody has given two answers to an item.
    """
    given: dict[str, dict[str, Answer]] = {item: {} for item in key.origins}
    for answer in answers:
        _require_item(key, answer)
        one = given[answer.item].setdefault(answer.annotator, answer)
        origin = key.origins[answer.item]
        if (one.verdict, _edited(origin, one)) != (answer.verdict, _edited(origin, answer)):
            raise UserError(
                f"{one.place} and {answer.place}: {answer.annotator} gives two answers to item {answer.item}; "
                "remove the one that does not count"
            )
    verified, waiting = [], []
    for item, origin in key.origins.items():
        found = sorted(given[item].values(), key=lambda answer: answer.annotator)
        if len(found) < annotators:
            waiting.append(origin.pair)
        else:
            verified.append(_verified(origin, found))
    return Imported(
        tuple(verified),
        tuple(waiting),
        agreement([[answer.verdict for answer in one.values()] for one in given.values()]),
    )


def agreement(items: Iterable[Sequence[str]]) -> Agreement | None:
    """Agreement of the answers to each item.

    Source: K. Krippendorff, Computing Krippendorff's alpha-reliability (2011), C: nominal data, any number of
    observers, missing data.
    """
    counts = [Counter(item) for item in items if len(item) > 1]
    if not counts:
        return None
    same = sum(math.comb(n, 2) for count in counts for n in count.values())
    share = same / sum(math.comb(count.total(), 2) for count in counts)
    totals = sum(counts, Counter[str]())
    n = totals.total()
    observed = sum(_unlike(count) / (count.total() - 1) for count in counts) / n
    expected = _unlike(totals) / (n * (n - 1))
    return Agreement(len(counts), share, 1 - observed / expected if expected else None)


def _unlike(count: Counter[str]) -> int:
    """Ordered pairs of different values."""
    return 2 * sum(a * b for a, b in combinations(count.values(), 2))


def _require_item(key: Key, answer: Answer) -> None:
    if answer.batch != key.batch:
        raise UserError(
            f"{answer.place}: answers batch {answer.batch}, and is read as one to batch {key.batch}; "
            f"give the answers to {key.batch}, or read these as {answer.batch}'s"
        )
    if answer.item not in key.origins:
        raise UserError(
            f"{answer.place}: item {answer.item} is not in batch {key.batch}; if the batch was made anew since it "
            "went out, put back its old files, or have the new ones answered"
        )


def _verified(origin: Origin, answers: Sequence[Answer]) -> Verified:
    """The verdict of answers sorted by annotator."""
    (most, n), *_ = Counter(answer.verdict for answer in answers).most_common(1)
    edits = [edit for answer in answers if (edit := _edited(origin, answer)) is not None]
    return Verified(
        pair_id=origin.pair,
        verdict=origin.verdict(most) if 2 * n > len(answers) else "none",
        annotators=tuple(answer.annotator for answer in answers),
        attributes=Counter(edits).most_common(1)[0][0] if edits else None,
    )


def _edited(origin: Origin, answer: Answer) -> Attributes | None:
    """The attributes with an answer's changes; None if there are none."""
    if not answer.attributes:
        return None
    values = {} if origin.attributes is None else origin.attributes.row()
    edited = Attributes.of(values | dict(answer.attributes))
    if edited is None:
        missing = ", ".join(name for name in NAMES if name not in answer.attributes)
        raise UserError(
            f"{answer.place}: attributes.{missing}: missing, and the item went out without; give all or none"
        )
    return None if edited == origin.attributes else edited


def _attributes(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RecordError("attributes", "is not an object", "give those that you changed, by name", repr(value)[:80])
    if unknown := sorted(set(value) - set(NAMES)):
        raise RecordError(f"attributes.{unknown[0]}", "is not known", f"give some of {', '.join(NAMES)}")
    return {name: _attribute(name, _words(f"attributes.{name}", v)) for name, v in value.items()}


def _attribute(name: str, value: str) -> str:
    if name not in CHOICES:
        return value
    legal = {choice.casefold(): choice for choice in CHOICES[name]}
    if value.casefold() not in legal:
        raise RecordError(f"attributes.{name}", "is not known", f"give {_one_of(CHOICES[name])}", repr(value)[:80])
    return legal[value.casefold()]


def _words(field: str, value: Any) -> str:
    if value is None or not text(field, value).strip():
        raise RecordError(field, "is missing", "give a text that is not empty")
    words: str = value.strip()
    return words


def _one_of(values: Sequence[str]) -> str:
    return f"{', '.join(map(repr, values[:-1]))} or {values[-1]!r}"
