"""Batches go in whole or not at all, and what comes out is what curation and Argilla read."""

import json
import resource
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_batches import (
    ATTRIBUTES,
    Clock,
    answers_file,
    for_candidate,
    hasty,
    made,
    number,
    say,
    take,
    undo,
    waiting,
    write,
)

from skyrm_jax.annotate import exchange, staging
from skyrm_jax.annotate.events import rebuild
from skyrm_jax.annotate.exchange import Taken, export_answers, export_argilla, export_events, import_batch
from skyrm_jax.annotate.given import Given
from skyrm_jax.annotate.store import Options, Shown, Store
from skyrm_jax.curate import people
from skyrm_jax.curate.humans.argilla import read_argilla, write_argilla
from skyrm_jax.curate.humans.batch import Item, read_items, read_key, write_batch
from skyrm_jax.curate.humans.queue import HumanQueue
from skyrm_jax.curate.humans.verified import read_answers, verify
from skyrm_jax.errors import UserError


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return hasty(Store(tmp_path / "store", Options(gold_share=0), clock))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewritten(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def number_of(item: Item) -> int:
    return int(item.prompt[0].content.split()[-1])


def everything(store: Store) -> list[list[Any]]:
    with store.writing() as db:
        return [sorted(db.execute(f"SELECT * FROM {name}")) for name in ("items", "texts", "answers", "tally")]


def test_items_come_in_as_they_are_with_their_labels(store: Store, tmp_path: Path) -> None:
    batch = write(tmp_path, count=5, reveal=True)
    check = {"who": "a model", "candidate": 1, "verdict": "correct", "why": "It is."}
    rows = lines(batch)
    rows[0]["checks"] = [check]
    rewritten(batch, rows)
    assert import_batch(store, batch) == Taken(5, 5, 0, 0)
    assert list(store.items("b")) == read_items(batch)
    store.annotator("ann", create=True)
    assert take(store, "ann").checks == (check,) and take(store, "ann").item.opinions == ()
    key = read_key(tmp_path, "b")
    for _ in range(5):
        say(store, "ann", 1)
    assert {row.item: row.machine for row in store.answers()} == {
        item: origin.shown("original") for item, origin in key.origins.items()
    }
    assert len({row.machine for row in store.answers()}) == 2


def test_importing_again_changes_nothing(store: Store, tmp_path: Path) -> None:
    batch = write(tmp_path)
    gold = answers_file(tmp_path / "gold.jsonl", batch, [None, "undecidable"])
    import_batch(store, batch, gold=gold)
    store.annotator("ann", create=True)
    say(store, "ann", 1)
    before = everything(store)
    assert import_batch(store, batch, gold=gold) == Taken(6, 0, 1, 0)
    assert import_batch(store, batch) == Taken(6, 0, 0, 0)
    assert everything(store) == before
    assert store.batches() == ["b"] and [event.kind for event in store.events()].count("imported") == 3
    # A batch that has grown: what is new comes at the end.
    longer = write_batch(tmp_path / "longer", "b", waiting(8, mark="b "), 0)
    assert import_batch(store, longer) == Taken(8, 2, 0, 0)
    assert [item.item for item in store.items("b")] == [
        item.item for n, item in enumerate(read_items(longer)) if n != 1
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"candidates": [[{"role": "assistant", "content": "x"}]] * 2},
            r"other\.jsonl:3: item \w+ is in the store with",
        ),
        ({"attributes": None}, r"other\.jsonl:3: item \w+ is in the store with other content"),
        ({"prompt": 5}, r"other\.jsonl:3: is not a line of a batch"),
        ({"item": 5}, r"other\.jsonl:3: is not a line of a batch"),
        ({"verdict": "both"}, r"other\.jsonl:3: verdict: is not known"),
        ({"verdict": "candidate 1"}, r"other\.jsonl:3: annotator: is missing"),
    ],
)
def test_a_bad_line_is_named_and_nothing_comes_in(
    store: Store, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    batch = write(tmp_path)
    import_batch(store, batch)
    rows = [*lines(write(tmp_path / "c", "c", 2)), lines(batch)[4] | changed]
    before = everything(store)
    with pytest.raises(UserError, match=message):
        import_batch(store, rewritten(tmp_path / "other.jsonl", rows))
    assert everything(store) == before and store.batches() == ["b"]


def test_files_that_are_none_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.jsonl"):
        import_batch(store, tmp_path / "nothing.jsonl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n{")
    with pytest.raises(UserError, match=r"bad\.jsonl:1"):
        import_batch(store, bad)
    batch = write(tmp_path)
    with pytest.raises(UserError, match=r"gold\.jsonl: answers item x of batch b, which is not in .*b\.jsonl"):
        row = {"batch": "b", "item": "x", "verdict": "undecidable", "annotator": "expert"}
        import_batch(store, batch, gold=rewritten(tmp_path / "gold.jsonl", [row]))
    key = tmp_path / "b.key.jsonl"
    rewritten(key, lines(key)[::-1])
    with pytest.raises(UserError, match=r"b\.jsonl:2: item \w+ is not in .*b\.key\.jsonl, or in another order"):
        import_batch(store, batch)
    assert store.batches() == []


def test_gold_checks_are_named_by_answers_or_by_their_lines(store: Store, tmp_path: Path, clock: Clock) -> None:
    batch = write(tmp_path)
    verdicts = ["candidate 1", None, "undecidable"]
    assert import_batch(store, batch, gold=answers_file(tmp_path / "gold.jsonl", batch, verdicts)).gold == 2
    assert len(list(store.items("b"))) == 4
    other = hasty(Store(tmp_path / "other", now=clock))
    rows = [row | {"verdict": said, "annotator": "expert"} for row, said in zip(lines(batch), verdicts, strict=False)]
    assert import_batch(other, rewritten(batch, rows), known=True) == Taken(3, 3, 2, 0)
    for one in (store, other):
        with one.writing() as db:
            found = [gold for (gold,) in db.execute("SELECT gold FROM items ORDER BY id LIMIT 3")]
        assert found == verdicts
    with pytest.raises(UserError, match="in the store as an ordinary item"):
        import_batch(store, batch, gold=answers_file(tmp_path / "gold.jsonl", batch, [None, "candidate 2"]))
    with pytest.raises(UserError, match="in the store as a gold check with verdict 'candidate 1'"):
        import_batch(store, batch, gold=answers_file(tmp_path / "gold.jsonl", batch, ["candidate 2"]))


def test_lines_that_are_answered_bring_their_answers(store: Store, tmp_path: Path) -> None:
    batch = write(tmp_path, count=3)
    rows = lines(batch)
    rows[1] |= {"verdict": "candidate 2", "annotator": "zoe", "seconds": 4, "time": "2025-07-02T13:30:00+00:00"}
    rows[1]["attributes"] = rows[1]["attributes"] | {"controversiality": "High"}
    rewritten(batch, rows)
    # Its attributes are changed, so that it is another item than the one sent out.
    assert import_batch(store, batch) == Taken(3, 3, 0, 1)
    assert import_batch(store, batch) == Taken(3, 0, 0, 0)
    (row,) = store.answers()
    assert (row.who, row.verdict, row.seconds, row.origin, row.time) == (
        "zoe",
        "candidate 2",
        4,
        "imported",
        1751463000,
    )
    assert store.progress("zoe").answered == 1 and store.progress("zoe").done == 1
    assert store.history("zoe") == []
    rows[1]["verdict"] = "candidate 1"
    with pytest.raises(UserError, match=r"b\.jsonl:2: zoe has answered item \w+ differently"):
        import_batch(store, rewritten(batch, rows))


def verified(folder: Path, path: Path) -> Any:
    answers = read_argilla([path]) if path.suffix == ".json" else read_answers([path])
    return verify(read_key(folder, "b"), answers)


def test_what_goes_out_is_what_curation_reads(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, count=7, people=("ann", "bob"), overlap=2)
    store.add_annotator("eve", "adjudicator")
    import_batch(store, write(tmp_path, "gold", 1), known=True)
    key = read_key(tmp_path, "b")
    expected: dict[str, str] = {}

    def right(shown: Any) -> int:
        return 1 if "good" in shown.item.candidates[0][0].content else 2

    for n in range(4):
        for who in ("ann", "bob"):
            shown = take(store, who)
            assert number(shown) == n
            clock.time += 10
            candidate = right(shown) if n < 2 else 0 if n == 2 else right(shown) if who == "ann" else 3 - right(shown)
            edits = {"controversiality": "High"} if n == 1 else {}
            store.answer(who, shown.lease, for_candidate(shown, candidate, attributes=edits, seconds=5.0, note="n"))
        expected[shown.item.item] = ["original", "flipped", "none", "flipped"][n]
    say(store, "eve", right(take(store, "eve")))
    say(store, "ann", 1)
    store.flag("bob", take(store, "bob").lease, "flagged items are left out")
    say(store, "ann", 1)
    undo(store, "ann")  # withdrawn
    done = export_answers(store, "b", tmp_path)
    assert done.answers == 9 and done.left_out == {"flag": 1}
    path = done.path
    assert path.name == "b.answers-annotate.jsonl" and people.answers_of(tmp_path, "b") == [path]
    imported = people.read(tmp_path, "b", HumanQueue(annotators=2))
    by_pair = {one.pair_id: one for one in imported.verified}
    assert {item: by_pair[key.origins[item].pair].verdict for item in expected} == expected
    assert len(imported.verified) == 4 and len(imported.waiting) == 3
    assert sorted(len(one.annotators) for one in imported.verified) == [2, 2, 2, 3]
    edited = [one.attributes for one in imported.verified if one.attributes is not None]
    assert edited == [replace(ATTRIBUTES, controversiality="High")]
    answers = read_answers([path])
    assert {answer.seconds for answer in answers} == {5.0, 0.0} and answers[0].note == "n"
    assert answers[0].time == "1970-01-12T13:46:50+00:00"
    # The same in Argilla's form, all items there.
    records = export_argilla(store, "b", tmp_path / "out").path
    assert verify(key, read_argilla([records])) == verify(key, answers)
    assert len(json.loads(records.read_text())) == 7
    with pytest.raises(UserError, match=r"batch 'nope' is not in the store; it has b, gold"):
        export_answers(store, "nope", tmp_path)
    with pytest.raises(UserError, match="nobody has answered"):
        export_answers(store, "gold", tmp_path)
    assert [event.data["answers"] for event in store.events() if event.kind == "exported"] == [9, 9]


@pytest.mark.parametrize("export", [export_answers, export_argilla])
def test_what_still_waits_does_not_go_out(tmp_path: Path, clock: Clock, export: Any) -> None:
    store = made(tmp_path, clock, count=5, overlap=2, review=True)
    store.add_annotator("eve", "adjudicator")
    labels = {item: origin.shown("original") for item, origin in read_key(tmp_path, "b").origins.items()}

    def said(who: str, right: bool, why: str = "the label is wrong") -> str:
        shown = take(store, who)
        label = 1 if labels[shown.item.item] == "candidate 1" else 2
        recorded = store.answer(who, shown.lease, for_candidate(shown, label if right else 3 - label))
        if recorded.needs_why and why:
            store.explain(who, shown.lease, why)
        return shown.lease

    with pytest.raises(UserError, match="nobody has answered any of it yet"):
        export_answers(store, "b", tmp_path)
    said("ann", True)
    said("bob", False)
    with pytest.raises(UserError, match="the 2 answers to it still wait"):
        export_answers(store, "b", tmp_path)
    for who in ("ann", "bob"):
        said(who, True)
    said("ann", True)
    store.flag("bob", take(store, "bob").lease, "broken")
    said("ann", False)
    owing = said("bob", False, why="")
    done = export(store, "b", tmp_path)
    assert (done.answers, done.left_out) == (3, {"split": 2, "flag": 1, "reason": 1})
    answers = read_argilla([done.path]) if done.path.suffix == ".json" else read_answers([done.path])
    assert len(answers) == 3 and len(verify(read_key(tmp_path, "b"), answers, annotators=2).verified) == 1
    store.explain("bob", owing, "it is")
    for _ in range(2):
        said("eve", True)
    assert (export(store, "b", tmp_path).left_out, export(store, "b", tmp_path).answers) == ({}, 9)


def test_without_review_no_reason_is_waited_for(tmp_path: Path, clock: Clock) -> None:
    """Nobody could give it."""
    store = made(tmp_path, clock, count=1, review=True)
    shown = take(store, "ann")
    right = 1 if "good" in shown.item.candidates[0][0].content else 2
    assert store.answer("ann", shown.lease, for_candidate(shown, 3 - right)).needs_why
    with pytest.raises(UserError, match="wait for an adjudicator or a reason"):
        export_answers(store, "b", tmp_path)
    store.set_options(replace(store.options, review=False))
    assert export_answers(store, "b", tmp_path).answers == 1


def graded(folder: Path, count: int) -> Path:
    """A batch whose later half is the more objective one, with some lines answered."""
    batch = write(folder, count=count)
    rows = lines(batch)
    for n, row in enumerate(rows):
        row["attributes"] = row["attributes"] | {
            "preference_objectivity": "Subjective" if n < count / 2 else "Objective"
        }
        if n % 3 == 0:
            row |= {"verdict": "candidate 1", "annotator": "zoe", "time": "2025-07-02T13:30:00+00:00"}
    return rewritten(batch, rows)


def test_a_stopped_import_is_finished_by_another_and_people_answer_meanwhile(
    store: Store, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = graded(tmp_path, 20)
    monkeypatch.setattr(staging, "PART_LINES", 3)
    whole = hasty(Store(tmp_path / "whole", store.options, clock))
    monkeypatch.setattr(exchange, "sleep", lambda _: None)
    assert import_batch(whole, batch) == Taken(20, 20, 0, 7)
    seen = []

    def pause(seconds: float) -> None:
        assert not store._db.in_transaction  # others get their turn
        seen.append(len(list(store.items("b"))))
        if len(seen) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(exchange, "sleep", pause)
    with pytest.raises(KeyboardInterrupt):
        import_batch(store, batch)
    assert seen == [3, 6, 9, 12]
    assert [event.kind for event in store.events()].count("imported") == 0
    with store.writing() as db:
        before = everything(store)
        rebuild(db)
        assert everything(store) == before
    monkeypatch.setattr(exchange, "sleep", lambda _: None)
    assert import_batch(store, batch) == Taken(20, 8, 0, 3)
    assert everything(store) == everything(whole)
    assert [number_of(item) for item in store.items("b")] == [*range(10, 20), *range(10)]


def test_other_processes_write_between_the_parts_of_an_import(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.annotator("ann", create=True)
    store.add_annotator("eve", "adjudicator")
    other = hasty(Store(tmp_path / "store", alone=False))
    monkeypatch.setattr(staging, "PART_LINES", 2)
    got: list[Shown] = []
    monkeypatch.setattr(exchange, "sleep", lambda _: got.append(say(other, "ann", 1)))
    assert import_batch(store, graded(tmp_path, 12)).new == 12
    while other.next("ann") is not None:
        got.append(say(other, "ann", 1))
    wanted = [n for n in (*range(6, 12), *range(6)) if n % 3]
    assert [number(shown) for shown in got] == wanted
    assert store.progress("ann").done == 12 and store.progress("ann").open == 0
    other.close()


def test_parts_are_bounded_in_bytes_too(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "PART_BYTES", 1)
    pauses: list[float] = []
    monkeypatch.setattr(exchange, "sleep", pauses.append)
    assert import_batch(store, write(tmp_path, count=5)).new == 5
    assert len(pauses) == 4 and min(pauses) > 0.1  # as often as others look whether it is their turn


def test_lines_of_one_file_are_held_against_each_other_first(store: Store, tmp_path: Path) -> None:
    rows = lines(write(tmp_path, count=2))
    answered = rows[0] | {"verdict": "candidate 1", "annotator": "zoe"}
    assert import_batch(store, rewritten(tmp_path / "twice.jsonl", [answered, answered, rows[1]])).new == 2
    fresh = hasty(Store(tmp_path / "fresh"))
    for second, message in (
        ({"prompt": "other"}, r"bad\.jsonl:3: item \w+ stands at .*bad\.jsonl:1 with other content"),
        ({"verdict": "candidate 2"}, r"bad\.jsonl:1 and .*bad\.jsonl:3: zoe gives two answers to item"),
    ):
        bad = rewritten(tmp_path / "bad.jsonl", [answered, rows[1], answered | second])
        with pytest.raises(UserError, match=message):
            import_batch(fresh, bad)
        assert fresh.batches() == []


@pytest.mark.parametrize("name", ["Zoe\u0308", "Zo\u00eb"])
def test_a_name_is_the_same_however_its_letters_are_coded(store: Store, tmp_path: Path, name: str) -> None:
    batch = write(tmp_path, count=2)
    rows = lines(batch)
    rows[0] |= {"verdict": "candidate 1", "annotator": name}
    rewritten(batch, rows)
    assert import_batch(store, batch).answers == 1 and import_batch(store, batch).answers == 0
    assert number(take(store, "Zo\u00eb")) == 1
    rows[1] |= {"verdict": "candidate 1", "annotator": "x" * 65}
    with pytest.raises(UserError, match=r"b\.jsonl:2: annotator: name 'x+' must have 1 to 64 characters"):
        import_batch(store, rewritten(batch, rows))


def test_argilla_s_records_come_in_and_round_again(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, count=4, overlap=2)
    for who in ("ann", "bob"):
        for n in range(3):
            say(store, who, n % 3, attributes={"controversiality": "Medium"} if n == 1 else {})
    back = export_argilla(store, "b", tmp_path / "out").path
    fresh = hasty(Store(tmp_path / "fresh", Options(overlap=2), now=clock))
    assert import_batch(fresh, back) == Taken(4, 4, 0, 6)
    assert import_batch(fresh, back) == Taken(4, 0, 0, 0)
    assert list(fresh.items("b")) == [replace(item, opinions=()) for item in store.items("b")]

    def said(one: Store) -> set[Any]:
        return {(row.who, row.item, row.verdict, json.dumps(row.attributes)) for row in one.answers()}

    assert said(fresh) == said(store) and len(said(fresh)) == 6
    # Answers of Argilla to a batch that is here in curation's form.
    other = hasty(Store(tmp_path / "third", Options(overlap=2), now=clock))
    import_batch(other, tmp_path / "b.jsonl")
    assert import_batch(other, back) == Taken(4, 0, 0, 6) and said(other) == said(store)
    # What has not been to Argilla yet, and what was changed there.
    untouched = write_argilla(tmp_path, "b") / "records.json"
    assert import_batch(other, untouched) == Taken(4, 0, 0, 0)
    records = json.loads(untouched.read_text())
    records[2]["fields"]["candidate_1"] += "!"
    untouched.write_text(json.dumps(records))
    with pytest.raises(UserError, match=r"records\.json:3: item \w+ is in the store with other content"):
        import_batch(other, untouched)
    del records[1]["fields"]["prompt"]
    untouched.write_text(json.dumps(records))
    with pytest.raises(UserError, match=r"records\.json:2: is not a record of Argilla \(KeyError: 'prompt'\)"):
        import_batch(other, untouched)


def test_the_log_tells_every_answer(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock)
    shown = take(store, "ann")
    given = Given("right much better", tools="search", links=("https://example.org",), note="ü", seconds=0.0)
    store.answer("ann", shown.lease, given)
    path = tmp_path / "out" / "events.jsonl"
    count = export_events(store, path)
    rows = lines(path)
    assert count == len(rows) == len(list(store.events()))
    last = rows[-1]
    assert last | {"data": None, "seq": 0} == {
        "seq": 0,
        "time": "1970-01-12T13:46:40+00:00",
        "who": "ann",
        "kind": "answered",
        "item": shown.item.item,
        "lease": shown.lease,
        "data": None,
    }
    told = {"choice", "verdict", "swapped", "attributes", "tools", "links", "note", "seconds", "needs_why"}
    assert set(last["data"]) == told and last["data"]["tools"] == "search" and last["data"]["note"] == "ü"


def test_overlap_of_a_batch_of_its_own(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, count=1)
    import_batch(store, write(tmp_path, "c", 1), overlap=2)
    store.set_options(replace(store.options, overlap=3))
    for who in ("ann", "bob"):
        while store.next(who) is not None:
            say(store, who, 1)
    assert Counter(row.batch for row in store.answers()) == {"b": 2, "c": 2}
    assert (store.progress("ann").open, store.progress("ann").done) == (1, 1)


def test_many_items_come_in_in_bounded_memory(store: Store, tmp_path: Path) -> None:
    batch = write(tmp_path, count=1)
    line = lines(batch)[0]
    long = tmp_path / "long.jsonl"
    with long.open("w") as file:
        for n in range(4000):
            text = {"role": "assistant", "content": f"{n} " + "x" * 20_000}
            file.write(json.dumps(line | {"item": f"{n}", "batch": "long", "candidates": [[text]] * 2}) + "\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert import_batch(store, long).new == 4000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 150 << 10  # KiB, of a file of 160 MB
    first = next(store.items("long"))
    assert isinstance(first, Item) and first.item == "0"
