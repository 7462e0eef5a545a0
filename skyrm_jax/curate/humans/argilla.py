"""Batches for Argilla (2.x), and the answers that it gives back; the `argilla` package is not needed here.

A batch NAME becomes the folder NAME.argilla of records.json and settings.json, to be loaded by

    settings = rg.Settings.from_json("NAME.argilla/settings.json")
    dataset = rg.Dataset(name="NAME", settings=settings)
    dataset.create()
    dataset.records.from_json("NAME.argilla/records.json")

Answers are read from the JSON of `dataset.records.to_list(flatten=True)`, in which every response has its status: those
submitted count, drafts and discarded ones do not. `dataset.records.to_json` leaves the status out; of its file, responses
to completed records count (if somebody else's draft is among them, it cannot be told from an answer).

Texts are Argilla's plain text fields, not its chat fields, for which its server accepts no empty message and none above
20,000 characters. Source: argilla 2.8, records/_resource.py, records/_io/ and settings/; argilla_server's api/schemas/v1.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skyrm_jax.comparison import Message, messages, text
from skyrm_jax.curate.attributes import NAMES, Attributes
from skyrm_jax.curate.humans.batch import UNDECIDABLE, VERDICTS, Item, paths, placed, read_items
from skyrm_jax.curate.humans.verified import CHOICES, Answer, parse_answer
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.report.files import whole

_TEXTS = {"prompt": "user", "candidate_1": "assistant", "candidate_2": "assistant"}
"""Fields of a record, and whose word a text is that names no role."""

GUIDELINES = """Which of the two candidates is the better answer to the prompt?

- Read the prompt and both candidates to the end. Follow the annotation guideline of the item; mend it, and the other \
attributes, where they are wrong.
- Search the web for facts, run code, and use language models for help as you like, but never let a model decide: the \
verdict is yours.
- Objective questions have a right answer: find out which candidate gives it. For the others, judge by what the person \
who asks wants. Length, layout and tone are no merits in themselves.
- Answer "undecidable" where the candidates are equally good or bad, where people would disagree, or where you cannot \
find out; such pairs are left out. Do not discard records instead.
"""


def write_argilla(folder: Path, name: str, annotators: int = 1) -> Path:
    """Writes the folder NAME.argilla of a batch that `write_batch` has written; its path.

    A record is complete once `annotators` people have submitted an answer to it. Raises UserError if the batch is not
    there or damaged.
    """
    items = read_items(paths(folder, name)[0])
    out = folder / f"{name}.argilla"
    reveal = any(item.opinions for item in items)
    files = {
        "settings.json": _settings(annotators, reveal),
        "records.json": [record_of(rank, item) for rank, item in enumerate(items, 1)],
    }
    for file, content in files.items():
        with whole(out / file) as temporary:
            # ASCII, for Argilla opens files in whatever encoding the machine prefers.
            temporary.write_text(json.dumps(content, indent=1), encoding="ascii")
    return out


def read_argilla(files: Iterable[str | os.PathLike[str]]) -> list[Answer]:
    """The answers in records that Argilla has given back; annotators are its users' ids.

    Raises:
        UserError: a file is missing or no JSON list of records, or an answer is not one of a batch's.
    """
    answers = []
    for file in files:
        for place, record in placed(file):
            answers += answers_of(place, record)
    return answers


def answers_of(place: str, record: Any) -> list[Answer]:
    """The answers in one record; raises UserError as `read_argilla` does."""
    with _naming(place):
        answers = [parse_answer(answer, place) for answer in _answers(record)]
    return [answer for answer in answers if answer is not None]


def item_in(place: str, record: Any) -> Item:
    """The item that one record shows, texts as `write_argilla` has put them; raises UserError if it is no record.

    Opinions are one text by then.
    """
    with _naming(place):
        fields, metadata = record.get("fields", record), record.get("metadata", record)
        said = {name: _suggestion(record, name) for name in NAMES}
        why = fields.get("opinions")
        prompt, *candidates = (messages(name, fields[name], role) for name, role in _TEXTS.items())
        return Item(
            text("id", record["id"]),
            text("batch", metadata["batch"]),
            prompt,
            (candidates[0], candidates[1]),
            Attributes.of(said),
            ({"who": "opinions", "verdict": UNDECIDABLE, "why": text("opinions", why)},) if why else (),
        )


def same_texts(one: Item, other: Item) -> bool:
    """Whether two items are the same to whoever sees them as records: of messages with roles only a text is left there."""
    ours, theirs = ({k: v for k, v in record_of(0, item)["fields"].items() if k in _TEXTS} for item in (one, other))
    return ours == theirs


def flat_record(rank: int, item: Item, answers: Sequence[Answer]) -> dict[str, Any]:
    """A record with the answers to it, as `to_list(flatten=True)` gives it back and `read_argilla` reads it."""
    record = record_of(rank, item)
    row: dict[str, Any] = {"id": item.item, "status": "completed" if answers else "pending", "_server_id": None}
    row |= record["fields"] | record["metadata"]
    row |= {f"{name}.suggestion": one["value"] for name, one in record["suggestions"].items()}
    for question in ("verdict", *NAMES, "note"):
        said = [(answer.annotator, value) for answer in answers if (value := _said(answer, question))]
        if said:
            row[f"{question}.responses"] = [value for _, value in said]
            row[f"{question}.responses.users"] = [user for user, _ in said]
            row[f"{question}.responses.status"] = ["submitted"] * len(said)
    return row


def _said(answer: Answer, question: str) -> str | None:
    return answer.attributes.get(question) if question in NAMES else getattr(answer, question)


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Errors about a record as UserErrors that say where it stands."""
    try:
        yield
    except RecordError as error:
        raise UserError(f"{place}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{place}: is not a record of Argilla ({type(error).__name__}: {error}); give the JSON of "
            "dataset.records.to_list(flatten=True), or what dataset.records.to_json writes"
        ) from None


def _suggestion(record: Mapping[str, Any], question: str) -> str | None:
    if "suggestions" in record:
        value: str | None = (record["suggestions"].get(question) or {}).get("value")
        return value
    return record.get(f"{question}.suggestion")


def _answers(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The submitted answers to a record, in the form that `parse_answer` reads."""
    said: dict[str, dict[str, Any]] = {}
    for question in ("verdict", *NAMES, "note"):
        for user, value, status in _responses(record, question):
            if status == "submitted" or (status is None and record["status"] == "completed"):
                said.setdefault(user, {})[question] = value
    batch = record["metadata"]["batch"] if "metadata" in record else record["batch"]
    return [
        {
            "batch": batch,
            "item": record["id"],
            "verdict": values.get("verdict"),
            "annotator": user,
            # Argilla keeps a text that was emptied as an answer.
            "attributes": {name: values[name] for name in NAMES if values.get(name)},
            "note": values.get("note"),
        }
        for user, values in said.items()
    ]


def _responses(record: Mapping[str, Any], question: str) -> list[tuple[str, Any, str | None]]:
    """User, value and status (None if it was left out) of the responses to a question."""
    if "responses" in record:
        return [(one["user_id"], one["value"], None) for one in record["responses"].get(question, ())]
    columns = (record.get(f"{question}.responses{suffix}") or () for suffix in (".users", "", ".status"))
    return list(zip(*columns, strict=True))


def record_of(rank: int, item: Item) -> dict[str, Any]:
    """The record of an item that comes `rank`-th in its batch."""
    shown = (item.prompt, *item.candidates)
    texts = {name: _text(turns, role) for turns, (name, role) in zip(shown, _TEXTS.items(), strict=True)}
    if item.opinions:
        texts["opinions"] = "\n\n".join(f"{o['who']}: {o['verdict']}\n{o['why']}".strip() for o in item.opinions)
    attributes = {} if item.attributes is None else item.attributes.row()
    return {
        "id": item.item,
        "fields": texts,
        "metadata": {"batch": item.batch, "rank": rank},
        # A suggestion fills the answer in, and people change it where it is wrong.
        "suggestions": {name: {"value": value, "score": None, "agent": None} for name, value in attributes.items()},
        "responses": {},
        "vectors": {},
    }


def _text(messages: Sequence[Message], role: str) -> str:
    """The messages as one text; roles are named unless there is just one message, of `role`."""
    if len(messages) == 1 and messages[0].role == role:
        return messages[0].content
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages)


def _settings(annotators: int, reveal: bool) -> dict[str, Any]:
    names = ["prompt", "candidate_1", "candidate_2", *(["opinions"] if reveal else [])]
    plain = {"type": "text", "use_markdown": False}
    questions = [_question("verdict", _choice(VERDICTS), "Which candidate is better?", required=True)]
    questions += [_question(name, _choice(CHOICES[name]) if name in CHOICES else plain) for name in NAMES]
    return {
        "guidelines": GUIDELINES,
        "fields": [
            {"name": name, "title": _title(name), "required": name != "opinions", "settings": plain} for name in names
        ],
        "questions": [*questions, _question("note", plain)],
        "metadata": [
            {"name": "batch", "title": "Batch", "settings": {"type": "terms"}},
            {"name": "rank", "title": "Rank in the queue", "settings": {"type": "integer"}},
        ],
        "vectors": [],
        "allow_extra_metadata": False,
        "distribution": {"strategy": "overlap", "min_submitted": annotators},
        "mapping": None,
    }


def _question(name: str, settings: Mapping[str, Any], title: str = "", required: bool = False) -> dict[str, Any]:
    return {"name": name, "title": title or _title(name), "required": required, "settings": settings}


def _choice(values: Sequence[str]) -> dict[str, Any]:
    return {"type": "label_selection", "options": [{"value": value, "text": value} for value in values]}


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()
