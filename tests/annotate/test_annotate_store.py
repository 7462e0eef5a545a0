"""The store keeps what it acknowledges, refuses what it must, and shows nobody what they are not to see."""

import json
import sqlite3
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from small_batches import ATTRIBUTES, Clock, answers_file, for_candidate, made, number, say, take, undo, write

from skyrm_jax.annotate import events
from skyrm_jax.annotate.exchange import import_batch
from skyrm_jax.annotate.given import CHOICES, Given, scale, side, speak_of_sides, verdict
from skyrm_jax.annotate.schema import APPLICATION, VERSION
from skyrm_jax.annotate.store import Annotator, Options, Refused, Store
from skyrm_jax.curate.humans.batch import VERDICTS, read_items
from skyrm_jax.errors import UserError


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return made(tmp_path, clock)


def refused(reason: str, call: object, *args: object) -> str:
    with pytest.raises(Refused) as error:
        call(*args)  # type: ignore[operator]
    assert error.value.reason == reason
    return str(error.value)


def test_choices_say_the_same_of_candidates_whatever_their_sides() -> None:
    assert [verdict(choice, False) for choice in CHOICES] == [
        *["candidate 1"] * 2,
        "undecidable",
        *["candidate 2"] * 2,
        *["undecidable"] * 3,
    ]
    assert [scale(choice, False) for choice in CHOICES] == [2, 1, 0, -1, -2, 0, 0, None]
    mirror = {"left": "right", "right": "left"}
    for choice in CHOICES:
        word, *rest = choice.split(" ", 1)
        mirrored = " ".join([mirror.get(word, word), *rest])
        assert verdict(choice, False) == verdict(mirrored, True)
        assert scale(choice, False) == scale(mirrored, True)
        if word in mirror:
            assert side(verdict(choice, True), True) == side(verdict(choice, False), False) == word


def test_an_answer_is_kept_with_all_that_was_given(store: Store, clock: Clock, tmp_path: Path) -> None:
    shown = take(store, "ann")
    clock.time += 20
    given = Given(
        "right much better",
        {"controversiality": "high", "task_category": "Math"},
        "python",
        ("https://example.org/a",),
        "It adds up.",
        12.5,
    )
    recorded = store.answer("ann", shown.lease, given)
    (row,) = store.answers()
    assert row.answer == recorded.answer and not recorded.needs_why and recorded.revealed is None
    assert (row.batch, row.item, row.who, row.category) == ("b", shown.item.item, "ann", "Math")
    assert row.choice == "right much better" and row.swapped == shown.swapped
    assert row.verdict == ("candidate 1" if shown.swapped else "candidate 2")
    assert row.attributes == {"controversiality": "High"}  # what is as it was is no change
    assert (row.tools, row.links, row.note) == ("python", ("https://example.org/a",), "It adds up.")
    assert (row.seconds, row.time, row.why, row.gold) == (12.5, clock.time, "", None)
    assert row.machine == "candidate 1" if "good" in shown.item.candidates[0][0].content else "candidate 2"
    assert store.show("ann", shown.lease).past == replace(given, attributes=row.attributes)
    event = list(store.events())[-1]
    assert (event.seq, event.kind, event.who, event.item, event.lease) == (
        *(recorded.answer, "answered", "ann"),
        *(shown.item.item, shown.lease),
    )
    assert event.data["swapped"] == shown.swapped and event.data["links"] == ["https://example.org/a"]


def test_time_spent_is_no_longer_than_it_was_shown(store: Store, clock: Clock) -> None:
    for claimed, shown_for, kept in ((100.0, 7.0, 7.0), (-5.0, 7.0, 0.0), (3.0, 7.0, 3.0)):
        shown = take(store, "ann")
        clock.time += shown_for
        store.answer("ann", shown.lease, Given("both bad", seconds=claimed))
        assert list(store.answers())[-1].seconds == kept


def test_what_was_not_shown_to_them_is_refused(store: Store) -> None:
    shown = take(store, "ann")
    ok = Given("left better")
    refused("unknown", store.answer, "ann", "forged", ok)
    assert "bob" in refused("not yours", store.answer, "bob", shown.lease, ok)
    refused("not yours", store.show, "bob", shown.lease)
    refused("not yours", store.flag, "bob", shown.lease, "x")
    refused("unknown", store.next, "carl")
    refused("unknown", store.progress, "carl")
    refused("unknown", store.annotator, "carl")
    assert list(store.answers()) == []
    store.answer("ann", shown.lease, ok)
    assert "kept" in refused("duplicate", store.answer, "ann", shown.lease, Given("right better"))
    refused("duplicate", store.flag, "ann", shown.lease, "x")
    assert [row.choice for row in store.answers()] == ["left better"]


@pytest.mark.parametrize(
    "given",
    [
        Given("left"),  # type: ignore[arg-type]
        Given("left better", {"unknown": "x"}),
        Given("left better", {"controversiality": "Extreme"}),
        Given("left better", {"annotation_guideline": " "}),
        Given("left better", {"annotation_guideline": "x" * 20_001}),
        Given("left better", links=("javascript:alert(1)",)),
        Given("left better", links=("https://a.b/\nx",)),
        Given("left better", links=("https://a.b",) * 51),
        Given("left better", note="x" * 20_001),
        Given("left better", note="\ud800"),
        Given("left better", seconds=float("nan")),
    ],
)
def test_what_makes_no_sense_is_refused_and_the_item_stays(store: Store, given: Given) -> None:
    shown = take(store, "ann")
    refused("invalid", store.answer, "ann", shown.lease, given)
    refused("invalid", store.flag, "ann", shown.lease, " ")
    again = take(store, "ann")
    assert again.lease == shown.lease and not list(store.answers())


def test_an_item_without_attributes_takes_all_or_none(tmp_path: Path, clock: Clock) -> None:
    batch = write(tmp_path, count=2)
    rows = [json.loads(line) | {"attributes": None} for line in batch.read_text().splitlines()]
    (tmp_path / "plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Store(tmp_path / "store", now=clock) as store:
        import_batch(store, tmp_path / "plain.jsonl")
        store.annotator("ann", create=True)
        shown = take(store, "ann")
        refused("invalid", store.answer, "ann", shown.lease, Given("both bad", {"controversiality": "Low"}))
        store.answer("ann", shown.lease, Given("both bad", ATTRIBUTES.row()))
        assert next(store.answers()).attributes == ATTRIBUTES.row()


def test_undo_goes_back_one_by_one_and_loses_nothing(store: Store, clock: Clock) -> None:
    refused("nothing", store.undo, "ann", take(store, "ann").lease)
    assert store.last("ann") is None
    first = say(store, "ann", 1, note="first")
    assert store.last("ann") == first.lease and store.last("bob") is None
    second = take(store, "ann")
    store.flag("ann", second.lease, "broken")
    assert store.last("ann") == second.lease
    third = take(store, "ann")
    back = undo(store, "ann")
    assert number(back) == number(second) and back.lease != second.lease and back.past is None
    assert store.flags() == [] and store.progress("ann").flagged == 0
    earlier = undo(store, "ann")
    assert number(earlier) == number(first) and earlier.past == for_candidate(first, 1, note="first")
    assert earlier.swapped == first.swapped and list(store.answers()) == []
    refused("stale", store.answer, "ann", first.lease, Given("both bad"))
    refused("stale", store.show, "ann", first.lease)
    refused("nothing", store.undo, "ann", first.lease)
    # What they hold comes in turn: the undone first, then what was on the page before.
    order = []
    while store.progress("ann").answered < 3:
        order.append(number(say(store, "ann", 2)))
    assert order == [number(first), number(second), number(third)]
    assert [row.verdict for row in store.answers()] == ["candidate 2"] * 3


def test_only_what_was_said_last_can_be_undone_and_once(store: Store) -> None:
    leases = [say(store, "ann", 1).lease for _ in range(3)]
    others = say(store, "bob", 1).lease
    for lease in (leases[0], leases[1], others, "forged", ""):
        assert "not the last thing" in refused("stale", store.undo, "ann", lease)
    store.undo("ann", leases[2])
    refused("stale", store.undo, "ann", leases[2])  # the same form, posted twice
    assert [row.who for row in store.answers()] == ["ann", "ann", "bob"]
    assert store.last("ann") == leases[1]


def test_a_flag_after_an_undone_answer_is_a_flag(store: Store) -> None:
    say(store, "ann", 1)
    again = undo(store, "ann")
    assert again.past is not None
    store.flag("ann", again.lease, "broken after all")
    shown = store.show("ann", again.lease)
    assert shown.answered and shown.past is None
    assert undo(store, "ann").past == again.past  # what they answered before fills the form again


def test_history_is_theirs_and_without_right_or_wrong(store: Store) -> None:
    first = say(store, "ann", 1)
    second = take(store, "ann")
    store.flag("ann", second.lease, "twice the same")
    say(store, "bob", 1)
    past = store.history("ann")
    assert [(one.lease, one.flag, one.title) for one in past] == [
        (second.lease, "twice the same", second.item.prompt[0].content),
        (first.lease, None, first.item.prompt[0].content),
    ]
    assert past[1].given == for_candidate(first, 1) and store.history("ann", 1) == past[:1]
    shown = store.show("ann", first.lease)
    assert shown.answered and shown.past == past[1].given and shown.revealed is None


def test_blind_unless_in_review_and_then_only_after_the_answer(tmp_path: Path, clock: Clock) -> None:
    store = Store(tmp_path / "store", Options(gold_share=0), clock)
    import_batch(store, write(tmp_path, reveal=True))
    assert all(item.opinions for item in store.items("b"))
    store.annotator("ann", create=True)
    assert take(store, "ann").item.opinions == ()
    store.set_options(replace(store.options, review=True))
    labels = {item.item: item for item in read_items(tmp_path / "b.jsonl")}
    for agrees in (True, False):
        shown = take(store, "ann")
        assert shown.revealed is None and shown.item.opinions == ()
        label = next(o["verdict"] for o in labels[shown.item.item].opinions if o["who"] == "label")
        candidate = 1 + VERDICTS.index(label)
        recorded = store.answer("ann", shown.lease, for_candidate(shown, candidate if agrees else 3 - candidate))
        revealed = recorded.revealed
        assert revealed is not None and recorded.needs_why == revealed.disagrees == (not agrees)
        sides = ("right", "left") if shown.swapped else ("left", "right")
        assert revealed.machine == sides[VERDICTS.index(label)]
        said = {one["who"]: one for one in revealed.opinions}
        assert said["label"]["verdict"] == revealed.machine == said["judge"]["verdict"]
        other = sides[1 - VERDICTS.index(label)]
        assert said["judge"]["why"] == f"{revealed.machine} candidate is right, {other} candidate is not."
    due = take(store, "ann")
    assert due.lease == shown.lease and due.answered and due.revealed == recorded.revealed
    refused("invalid", store.explain, "ann", shown.lease, "")
    refused("not yours", store.explain, "bob", shown.lease, "x")
    store.explain("ann", shown.lease, "I ran it.")
    refused("duplicate", store.explain, "ann", shown.lease, "again")
    assert [row.why for row in store.answers()] == ["", "I ran it."]
    assert not take(store, "ann").answered
    undecided = say(store, "ann", 0)
    refused("invalid", store.explain, "ann", undecided.lease, "no label to contradict")


def test_in_review_a_gold_check_without_a_label_looks_like_any_other_item(tmp_path: Path, clock: Clock) -> None:
    store = Store(tmp_path / "store", Options(gold_share=0.99, review=True), clock)
    import_batch(store, write(tmp_path))
    checks = write(tmp_path, "g", 4)
    (tmp_path / "g.key.jsonl").unlink()
    import_batch(store, checks, answers_file(tmp_path / "right.jsonl", checks, ["candidate 1"] * 4))
    store.annotator("ann", create=True)
    shown = take(store, "ann")
    while shown.item.batch != "g":
        store.answer("ann", shown.lease, for_candidate(shown, 0))
        shown = take(store, "ann")
    revealed = store.answer("ann", shown.lease, for_candidate(shown, 2)).revealed
    assert revealed is not None and revealed.disagrees
    assert revealed.machine == ("right" if shown.swapped else "left")


def test_in_review_a_gold_check_has_no_label_where_ordinary_items_have_none(tmp_path: Path, clock: Clock) -> None:
    store = Store(tmp_path / "store", Options(gold_share=0.5, review=True), clock)
    bare, labelled = write(tmp_path, "b", 10), write(tmp_path, "c", 10)
    (tmp_path / "b.key.jsonl").unlink()
    import_batch(store, bare)
    import_batch(store, labelled)
    for name in ("g", "h"):
        checks = write(tmp_path, name, 10)
        if name == "g":
            (tmp_path / "g.key.jsonl").unlink()
        import_batch(store, checks, answers_file(tmp_path / "right.jsonl", checks, ["candidate 1"] * 10))
    store.annotator("ann", create=True)
    told: list[tuple[str, bool]] = []
    while (shown := store.next("ann")) is not None:
        recorded = store.answer("ann", shown.lease, for_candidate(shown, 2))
        revealed = recorded.revealed
        assert revealed is not None and recorded.needs_why == revealed.disagrees
        told.append((shown.item.batch, revealed.machine is not None))
        if recorded.needs_why:
            assert take(store, "ann").revealed == revealed  # now and later
            store.explain("ann", shown.lease, "x")
    turn = [batch for batch, _ in told].index("c")
    assert {batch for batch, _ in told[:turn]} == {"b", "g", "h"} and {batch for batch, _ in told[turn:]} >= {"c", "g"}
    assert [labels for _, labels in told] == [False] * turn + [True] * (len(told) - turn)


def test_what_each_said_first_can_be_had_too(store: Store) -> None:
    first = [say(store, "ann", 1), say(store, "ann", 2), say(store, "bob", 1)]
    undo(store, "bob")
    for _ in range(2):
        undo(store, "ann")
    again = say(store, "ann", 2)  # of the earlier one
    assert again.item == first[0].item
    assert [(row.item, row.verdict) for row in store.answers()] == [(again.item.item, "candidate 2")]
    assert [(row.item, row.verdict) for row in store.answers(first=True)] == [
        (shown.item.item, f"candidate {candidate}") for shown, candidate in zip(first, (1, 2, 1), strict=True)
    ]


def test_half_a_character_in_the_words_of_others_is_kept_and_shown(tmp_path: Path, clock: Clock) -> None:
    store = Store(tmp_path / "store", Options(review=True), clock)
    batch = write(tmp_path, reveal=True)
    rows = [json.loads(line) for line in batch.read_text().splitlines()]
    check = {"who": "a model", "candidate": 1, "verdict": "unsure", "why": "Half \ud83d."}
    rows[0] |= {"opinions": [rows[0]["opinions"][0] | {"why": "é \ud83d é"}], "checks": [check]}
    batch.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_batch(store, batch)
    import_batch(store, batch)
    assert list(store.items("b")) == read_items(batch)
    store.annotator("ann", create=True)
    shown = take(store, "ann")
    assert shown.checks == (check,) and speak_of_sides(check["why"], False) == "Half \ufffd."  # type: ignore[arg-type]
    revealed = store.answer("ann", shown.lease, for_candidate(shown, 0)).revealed
    assert revealed is not None and [one["why"] for one in revealed.opinions] == ["é \ufffd é"]


def test_tokens_open_and_only_their_hash_is_kept(tmp_path: Path, clock: Clock) -> None:
    with Store(tmp_path / "store", now=clock) as store:
        assert not store.has_tokens()
        old = store.add_annotator("ann")
        bob = store.add_annotator("bob", "adjudicator")
        new = store.add_annotator("ann")
        assert store.annotator_by_token(old) is None and store.annotator_by_token("") is None
        assert store.annotator_by_token(new) == Annotator("ann", "annotator")
        assert store.annotator_by_token(bob) == Annotator("bob", "adjudicator")
        assert len({old, bob, new}) == 3 and len(new) >= 43 and store.has_tokens()
        assert store.annotators() == [Annotator("ann", "annotator"), Annotator("bob", "adjudicator")]
        assert store.annotator("bob", create=True).role == "adjudicator"
        renewed = store.add_annotator("bob")
        assert store.annotator_by_token(bob) is None
        assert store.annotator_by_token(renewed) == Annotator("bob", "adjudicator")  # of the role that they had
        store.add_annotator("bob", "annotator")
        assert store.annotator("bob").role == "annotator"
    kept = b"".join(path.read_bytes() for path in (tmp_path / "store").iterdir())
    assert not any(token.encode() in kept for token in (old, bob, new))
    for name in ("", " ", "a\nb", "x" * 65):
        with Store(tmp_path / "store", now=clock) as store:
            with pytest.raises(UserError, match="1 to 64 characters"):
                store.add_annotator(name)
            refused("invalid", store.annotator, name, True)


def test_a_store_is_one_process_s_and_a_store(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UserError, match="another process"):
        Store(tmp_path / "store")
    store.close()
    Store(tmp_path / "store").close()
    path = tmp_path / "store" / "annotations.sqlite"
    for pragma, message in (
        (f"user_version = {VERSION + 1}", "newer"),
        (f"application_id = {APPLICATION + 1}", "another"),
    ):
        db = sqlite3.connect(path)
        db.execute(f"PRAGMA {pragma}")
        db.close()
        with pytest.raises(UserError, match=rf"annotations\.sqlite: .*{message}"):
            Store(tmp_path / "store")
    path.write_bytes(b"not a database, and long enough to be looked at" * 100)
    for side_file in path.parent.glob("*-*"):
        side_file.unlink()
    with pytest.raises(UserError, match=r"annotations\.sqlite: is no store of annotations, or damaged"):
        Store(tmp_path / "store")
    with pytest.raises(UserError, match="is no store of annotations; give an empty folder"):
        Store(tmp_path)


def test_options_last_and_a_restart_changes_them(tmp_path: Path, clock: Clock) -> None:
    made(tmp_path, clock, lease_seconds=60.0, seed=3).close()
    with Store(tmp_path / "store") as store:
        assert store.options == Options(lease_seconds=60.0, seed=3, gold_share=0.0)
    with Store(tmp_path / "store", Options(review=True)) as store:
        assert store.options == Options(review=True)
    with Store(tmp_path / "store") as store:
        assert store.options == Options(review=True)


@pytest.mark.parametrize(
    "wrong", [{"overlap": 0}, {"lease_seconds": 0.0}, {"gold_share": 1.0}, {"lease_seconds": float("nan")}]
)
def test_options_name_the_field_at_fault(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Options(**wrong)  # type: ignore[arg-type]


def test_another_overlap_asks_for_more_of_what_is_there(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, count=3)
    for _ in range(2):
        say(store, "ann", 1)
    store.set_options(replace(store.options, overlap=2))
    assert store.progress("ann").open == 3 and store.progress("ann").waiting == 1
    assert [number(say(store, "bob", 1)) for _ in range(3)] == [0, 1, 2]
    assert number(say(store, "ann", 1)) == 2
    assert store.next("ann") is None and store.progress("ann").done == 3
    store.set_options(replace(store.options, overlap=3))
    assert store.next("ann") is None and store.progress("ann").open == 3


def test_events_stay_and_the_tables_follow_from_them(store: Store, clock: Clock) -> None:
    shown = say(store, "ann", 1)
    undo(store, "ann")
    clock.time += 10_000
    take(store, "bob")
    store.flag("bob", take(store, "bob").lease, "hm")
    tables = ("leases", "answers", "flags", "items", "tally", "annotators", "missed")
    with store.writing() as db:
        before = {name: sorted(db.execute(f"SELECT * FROM {name}")) for name in tables}
        assert before["answers"] and before["flags"] and len(before["leases"]) == 3
        events.rebuild(db)
        assert {name: sorted(db.execute(f"SELECT * FROM {name}")) for name in tables} == before
        for change in ("UPDATE events SET who = 'eve'", "DELETE FROM events"):
            with pytest.raises(sqlite3.IntegrityError, match="events are never"):
                db.execute(change)
    kinds = [event.kind for event in store.events()]
    assert kinds == [
        *("imported", "annotator", "annotator", "shown", "answered", "undone", "shown", "expired", "shown"),
        *("flagged", "adjudication"),
    ]
    numbers = [event.seq for event in store.events()]
    assert [event.seq for event in store.events(numbers[4])] == numbers[5:]
    assert shown.item.item in {event.item for event in store.events()}


def test_a_store_that_others_write_for_too_long_says_so(tmp_path: Path, store: Store) -> None:
    """The page answers 503 to that; nothing is lost."""
    shown = take(store, "ann")
    store._db.execute("PRAGMA busy_timeout = 50")
    with sqlite3.connect(tmp_path / "store" / "annotations.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            store.answer("ann", shown.lease, Given("both bad"))
        assert store.progress("ann").answered == 0  # to look takes no turn
        other.execute("ROLLBACK")
    store.answer("ann", shown.lease, Given("both bad"))


def test_threads_take_turns(tmp_path: Path, clock: Clock) -> None:
    people = [f"p{n}" for n in range(8)]
    store = made(tmp_path, clock, count=40, people=people, overlap=2)
    failed: list[BaseException] = []

    def work(who: str) -> None:
        try:
            while (shown := store.next(who)) is not None:
                store.answer(who, shown.lease, Given("both good"))
                store.progress(who)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    rows = list(store.answers())
    assert set(Counter(row.item for row in rows).values()) == {2} and len(rows) == 80
    assert len({(row.item, row.who) for row in rows}) == 80
