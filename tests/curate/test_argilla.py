"""Argilla's form: what its classes and its server accept, and that answers in it are read like all others."""

import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from uuid import UUID

import pytest

from skyrm_jax.comparison import Message
from skyrm_jax.curate.attributes import CATEGORIES, NAMES, Attributes
from skyrm_jax.curate.humans.argilla import read_argilla, write_argilla
from skyrm_jax.curate.humans.batch import VERDICTS, read_items, read_key, write_batch
from skyrm_jax.curate.humans.queue import Opinion, Waiting
from skyrm_jax.curate.humans.verified import read_answers, verify
from skyrm_jax.curate.pair import Pair
from skyrm_jax.errors import UserError

ATTRIBUTES = Attributes("Coding & Debugging", "Objective", "Low", "correctness", "Run it.")
ANN, BOB = str(UUID(int=1)), str(UUID(int=2))


def waiting(count: int = 4) -> list[Waiting]:
    """Pairs whose chosen response is the better one in the even ones; the last has no attributes."""
    prompt = (Message("system", "Be brief."), Message("user", "Wie groß?"))
    better = [
        Pair.of(prompt, (Message("assistant", f"better {n}"),), (Message("assistant", ""),)) for n in range(count)
    ]
    return [
        Waiting(pair.flipped() if n % 2 else pair, None if n == count - 1 else ATTRIBUTES, 0.3, (Opinion("j", "none"),))
        for n, pair in enumerate(better)
    ]


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """The folder of a batch `b`, also in Argilla's form."""
    write_batch(tmp_path, "b", waiting(), 0)
    write_argilla(tmp_path, "b", annotators=2)
    return tmp_path


def read(folder: Path, file: str) -> Any:
    return json.loads((folder / "b.argilla" / file).read_bytes().decode("ascii"))


def truth(record: dict[str, Any]) -> str:
    return "candidate 1" if "better" in record["fields"]["candidate_1"] else "candidate 2"


def returned(folder: Path, *records: Any) -> Path:
    path = folder / "b.answers.json"
    path.write_text(json.dumps(list(records)))
    return path


def nested(record: dict[str, Any], said: dict[str, dict[str, str]], status: str = "completed") -> dict[str, Any]:
    """A record as `to_json` of argilla 2.8 gives it back: `said` is the values by user and question."""
    responses: dict[str, list[dict[str, str]]] = {}
    for user, values in said.items():
        for question, value in values.items():
            responses.setdefault(question, []).append({"value": value, "user_id": user})
    return record | {"responses": responses, "status": status, "_server_id": str(UUID(int=9))}


def flat(record: dict[str, Any], said: dict[str, tuple[str, dict[str, str]]]) -> dict[str, Any]:
    """A record as `to_list(flatten=True)` of argilla 2.8 gives it back: `said` is status and values by user."""
    row = {"id": record["id"], "status": "pending", "_server_id": None, **record["fields"], **record["metadata"]}
    for question in ("verdict", *NAMES, "note"):
        columns: list[list[Any]] = [[], [], []]
        for user, (status, values) in said.items():
            if question in values:
                for column, value in zip(columns, (values[question], user, status), strict=True):
                    column.append(value)
        if columns[0]:
            row |= zip((f"{question}.responses{end}" for end in ("", ".users", ".status")), columns, strict=True)
        else:  # absent from this record and present in another one
            row[f"{question}.responses"] = None
    return row


def test_records_hold_what_the_batch_shows_and_attributes_as_suggestions(batch: Path) -> None:
    items, records = read_items(batch / "b.jsonl"), read(batch, "records.json")
    for rank, (item, record) in enumerate(zip(items, records, strict=True), 1):
        texts = [candidate[0].content for candidate in item.candidates]
        assert record["id"] == item.item
        assert record["fields"] == {
            "prompt": "[system]\nBe brief.\n\n[user]\nWie groß?",
            "candidate_1": texts[0],
            "candidate_2": texts[1],
        }
        assert record["metadata"] == {"batch": "b", "rank": rank}
        assert {name: said["value"] for name, said in record["suggestions"].items()} == (
            {} if rank == 4 else ATTRIBUTES.row()
        )
        # What argilla's Record.from_dict passes on, by name: no other key is accepted.
        assert set(record) == {"id", "fields", "metadata", "suggestions", "responses", "vectors"}
        assert all(set(said) <= {"value", "score", "agent", "type"} for said in record["suggestions"].values())


def test_settings_are_what_the_server_accepts(batch: Path) -> None:
    settings = read(batch, "settings.json")
    # Limits of argilla_server's api/schemas/v1: questions.py, fields.py, datasets.py.
    assert 1 <= len(settings["guidelines"]) <= 10_000
    assert settings["distribution"] == {"strategy": "overlap", "min_submitted": 2}
    named = [*settings["fields"], *settings["questions"], *settings["metadata"]]
    names = [one["name"] for one in named]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"(?=.*[a-z0-9])[a-z0-9_-]{1,200}", name) for name in names)
    assert all(1 <= len(one["title"]) <= 500 for one in named)
    questions = {one["name"]: one for one in settings["questions"]}
    assert [name for name, one in questions.items() if one["required"]] == ["verdict"]
    assert set(questions) == {"verdict", *NAMES, "note"}
    options = {
        name: [option["value"] for option in one["settings"]["options"]]
        for name, one in questions.items()
        if one["settings"]["type"] == "label_selection"
    }
    assert options["verdict"] == list(VERDICTS) and options["task_category"] == list(CATEGORIES)
    for record in read(batch, "records.json"):
        assert set(record["fields"]) == {one["name"] for one in settings["fields"]}
        assert set(record["metadata"]) == {one["name"] for one in settings["metadata"]}
        for name, said in record["suggestions"].items():
            assert said["value"] in options.get(name, [said["value"]])


def test_nothing_tells_the_label_unless_it_is_asked_for(tmp_path: Path) -> None:
    plain = waiting()
    for name, reveal in (("blind", False), ("open", True)):
        for turn in (False, True):
            folder = tmp_path / f"{name}{turn}"
            pairs = [Waiting(one.pair.flipped() if turn else one.pair, one.attributes) for one in plain]
            write_batch(folder, "b", pairs, 0, reveal)
            write_argilla(folder, "b")
    same = {
        name: all(read(tmp_path / f"{name}False", file) == read(tmp_path / f"{name}True", file) for file in files)
        for name, files in (("blind", ("records.json", "settings.json")), ("open", ("records.json",)))
    }
    assert same == {"blind": True, "open": False}
    assert "opinions" not in str(read(tmp_path / "blindTrue", "settings.json"))
    record = read(tmp_path / "openFalse", "records.json")[0]
    assert record["fields"]["opinions"] == f"label: {truth(record)}"
    assert "opinions" in [field["name"] for field in read(tmp_path / "openFalse", "settings.json")["fields"]]


@pytest.mark.parametrize("form", ["nested", "flat"])
def test_answers_come_back_as_from_a_file_of_lines(batch: Path, form: str) -> None:
    records = read(batch, "records.json")
    said = [
        {ANN: {"verdict": truth(records[0])}},
        {ANN: {"verdict": truth(records[1]), "note": "hm"}, BOB: {"verdict": truth(records[1])}},
        {ANN: ATTRIBUTES.row() | {"verdict": "undecidable", "controversiality": "High", "desired_attributes": ""}},
        {BOB: ATTRIBUTES.row() | {"verdict": truth(records[3])}},
    ]
    back = [
        nested(record, values)
        if form == "nested"
        else flat(record, {user: ("submitted", one) for user, one in values.items()})
        for record, values in zip(records, said, strict=True)
    ]
    answers = read_argilla([returned(batch, *back)])
    rows = [
        {
            "batch": "b",
            "item": record["id"],
            "annotator": user,
            "verdict": one["verdict"],
            "note": one.get("note", ""),
            "attributes": {name: one[name] for name in NAMES if one.get(name)},
        }
        for record, values in zip(records, said, strict=True)
        for user, one in values.items()
    ]
    lines = batch / "b.answers.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    key = read_key(batch, "b")
    assert verify(key, answers) == verify(key, read_answers([lines]))
    found = verify(key, answers).verified
    assert [one.verdict for one in found] == ["original", "flipped", "none", "flipped"]
    assert [one.annotators for one in found] == [(ANN,), (ANN, BOB), (ANN,), (BOB,)]
    high = Attributes(ATTRIBUTES.task_category, "Objective", "High", "correctness", "Run it.")
    assert [one.attributes for one in found] == [None, None, high, ATTRIBUTES]


def test_drafts_and_discarded_responses_do_not_count(batch: Path) -> None:
    one, two, three, four = read(batch, "records.json")
    path = returned(
        batch,
        flat(one, {ANN: ("draft", {"verdict": truth(one)}), BOB: ("submitted", {"verdict": truth(one)})}),
        flat(two, {ANN: ("discarded", {"verdict": truth(two), "note": "?"})}),
        flat(three, {}),
        nested(four, {ANN: {"verdict": truth(four)}}, "pending"),
    )
    assert [(answer.item, answer.annotator) for answer in read_argilla([path])] == [(one["id"], BOB)]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": "x"}, r"b\.answers\.json:2: is not a record of Argilla \(KeyError: 'batch'\)"),
        ([], r"b\.answers\.json:2: is not a record of Argilla"),
        ({"metadata": {}}, r"b\.answers\.json:2: is not a record of Argilla \(KeyError: 'batch'\)"),
        ({"responses": {"verdict": [{"value": "x"}]}}, r"b\.answers\.json:2: is not a record of Argilla"),
        ({"verdict.responses": ["x"], "verdict.responses.users": []}, r"b\.answers\.json:2: is not a record of Arg"),
    ],
)
def test_what_is_no_record_is_named(batch: Path, record: Any, message: str) -> None:
    first = read(batch, "records.json")[0]
    with pytest.raises(UserError, match=message):
        read_argilla([returned(batch, nested(first, {}), record)])


def test_a_bad_answer_is_named(batch: Path) -> None:
    first, second, *_ = read(batch, "records.json")
    path = returned(batch, nested(first, {}), nested(second, {ANN: {"verdict": "both"}}))
    with pytest.raises(UserError, match=r"b\.answers\.json:2: verdict: is not known \('both'\)"):
        read_argilla([path])
    other = second | {"metadata": {"batch": "c", "rank": 1}}
    answers = read_argilla([returned(batch, nested(other, {ANN: {"verdict": truth(second)}}))])
    with pytest.raises(UserError, match=r"b\.answers\.json:1: answers batch c, and is read as one to batch b"):
        verify(read_key(batch, "b"), answers)


def test_argillas_own_classes_read_the_files_and_write_what_is_read(
    batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rg = pytest.importorskip("argilla")
    generic = pytest.importorskip("argilla.records._io").GenericIO
    monkeypatch.setattr(rg.Argilla, "_default_client", MagicMock())  # the server, which nothing here asks
    settings = rg.Settings.from_json(batch / "b.argilla" / "settings.json")
    settings.validate()
    ours = read(batch, "settings.json")
    for part in ("fields", "questions", "metadata"):
        for sent, got in zip(ours[part], settings.serialize()[part], strict=True):
            assert sent["settings"].items() <= got["settings"].items()
            assert (sent["name"], sent["title"]) == (got["name"], got["title"])
    assert settings.distribution.min_submitted == 2 and settings.guidelines == ours["guidelines"]

    sent = read(batch, "records.json")
    records = [rg.Record.from_dict(record) for record in sent]
    for record, one in zip(records, sent, strict=True):
        model = record.api_model()
        assert (model.external_id, model.fields) == (one["id"], one["fields"])
        assert {name: said["value"] for name, said in record.suggestions.to_dict().items()} == {
            name: said["value"] for name, said in one["suggestions"].items()
        }
        values = {"verdict": truth(one), "controversiality": "High"} if one["suggestions"] else {"verdict": truth(one)}
        for user, status in ((ANN, "submitted"), (BOB, "draft")):
            for question, value in values.items():
                record.responses.add(rg.Response(question, value, user_id=UUID(user), status=status))
        record._model.status = "completed"
    key = read_key(batch, "b")
    found = verify(key, read_argilla([returned(batch, *generic.to_list(records, flatten=True))]))
    assert [one.verdict for one in found.verified] == ["original", "flipped", "original", "flipped"]
    assert {one.annotators for one in found.verified} == {(ANN,)}
    # The nested form cannot tell the draft.
    again = verify(key, read_argilla([returned(batch, *generic.to_list(records))]))
    assert [one.verdict for one in again.verified] == [one.verdict for one in found.verified]
    assert {one.annotators for one in again.verified} == {(ANN, BOB)}
    assert [one.attributes and one.attributes.controversiality for one in again.verified] == ["High"] * 3 + [None]
