"""Who gets which item: rules one by one, and the whole against a plain model; and that it stays fast."""

import json
import sqlite3
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from small_batches import Clock, answers_file, hasty, made, number, say, take, undo, write

from skyrm_jax.annotate import events, handing
from skyrm_jax.annotate.exchange import import_batch
from skyrm_jax.annotate.given import Given
from skyrm_jax.annotate.store import Options, Refused, Store
from skyrm_jax.annotate.values import Progress
from skyrm_jax.curate.humans.batch import read_items


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_in_the_order_of_batches_and_nobody_twice(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, count=3)
    import_batch(store, write(tmp_path, "c", 2))
    got = [(take(store, who).item.batch, number(take(store, who))) for who in ("ann", "bob")]
    assert got == [("b", 0), ("b", 1)]
    for who in ("bob", "ann"):
        say(store, who, 1)
    rest = [say(store, "ann", 2) for _ in range(3)]
    assert [(shown.item.batch, number(shown)) for shown in rest] == [("b", 2), ("c", 0), ("c", 1)]
    assert store.next("ann") is None and store.next("bob") is None


def test_a_tie_goes_to_an_adjudicator_who_has_not_answered(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, count=1, people=("ann", "bob", "cat"), overlap=2)
    store.add_annotator("eve", "adjudicator")
    store.add_annotator("bob", "adjudicator")
    say(store, "ann", 1)
    say(store, "bob", 2)
    assert (store.progress("ann").split, store.progress("ann").done) == (1, 0)
    assert store.next("ann") is None and store.next("cat") is None and store.next("bob") is None
    say(store, "eve", 2)
    assert (store.progress("ann").split, store.progress("ann").done) == (0, 1)
    assert Counter(row.verdict for row in store.answers()) == {"candidate 1": 1, "candidate 2": 2}
    assert [row.origin for row in store.answers()] == ["queue", "queue", "adjudication"]
    # What came before an adjudication cannot be taken back; the adjudication can.
    with pytest.raises(Refused, match="adjudicator"):
        undo(store, "ann")
    undo(store, "eve")
    assert store.progress("ann").split == 1


def test_who_becomes_an_adjudicator_later_gets_what_waits(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, count=2, overlap=2)
    for candidate, who in ((1, "ann"), (2, "bob")):
        say(store, who, candidate)
    store.add_annotator("eve", "adjudicator")
    assert number(take(store, "eve")) == 0
    store.add_annotator("fay", "adjudicator")
    assert number(take(store, "fay")) == 1  # one adjudicator is enough; this is from the queue
    clock.time += 10_000
    assert number(take(store, "fay")) == 0


def test_a_flagged_item_comes_back_when_an_adjudicator_has_answered(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, count=1, people=("ann", "bob", "cat"), overlap=3)
    store.add_annotator("eve", "adjudicator")
    store.flag("ann", take(store, "ann").lease, "The prompt is cut off.")
    assert store.next("bob") is None and store.next("ann") is None
    (flag,) = store.flags()
    assert (flag.who, flag.why, flag.settled) == ("ann", "The prompt is cut off.", False)
    say(store, "eve", 1)
    assert store.flags() == [replace(flag, settled=True)]
    with pytest.raises(Refused, match="adjudicator"):
        undo(store, "ann")
    assert store.next("ann") is None
    for who in ("bob", "cat"):
        say(store, who, 1)
    assert store.progress("bob").done == 1


def test_an_adjudicator_who_cannot_decide_ends_a_flagged_item(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, count=2, people=("ann", "bob", "cat"), overlap=3)
    store.add_annotator("eve", "adjudicator")
    for choice in ("cannot decide", "both bad"):
        store.flag("ann", take(store, "ann").lease, "broken")
        store.answer("eve", take(store, "eve").lease, Given(choice))  # type: ignore[arg-type]
    assert (store.progress("ann").done, store.progress("ann").open) == (1, 1)
    assert number(take(store, "bob")) == 1
    assert number(undo(store, "eve")) == 1
    store.answer("eve", take(store, "eve").lease, Given("cannot decide"))
    assert store.progress("ann").done == 2 and store.next("cat") is None
    undo(store, "eve")
    assert (store.progress("ann").done, store.progress("ann").flagged) == (1, 1)


def test_a_tie_that_was_brought_in_goes_to_an_adjudicator(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, count=2)
    store.add_annotator("eve", "adjudicator")
    batch = tmp_path / "b.jsonl"
    (first, _), blank = read_items(batch), json.loads(batch.read_text().splitlines()[0])
    for who, verdict in (("zoe", "candidate 1"), ("yan", "candidate 2")):
        line = tmp_path / f"{who}.jsonl"
        line.write_text(json.dumps(blank | {"verdict": verdict, "annotator": who}))
        import_batch(store, line)
    assert (store.progress("ann").split, store.progress("ann").done) == (1, 0)
    shown = take(store, "eve")
    assert shown.item.item == first.item
    store.answer("eve", shown.lease, Given("both bad"))
    assert (store.progress("ann").split, store.progress("ann").done) == (0, 1)


def test_an_answer_can_be_undone_whoever_has_answered_beside_it(tmp_path: Path, clock: Clock) -> None:
    """Only a flag gives up a place, which others may have taken."""
    store = made(tmp_path, clock, count=1, overlap=3)
    for who in ("ann", "bob"):
        say(store, who, 1)
    store.set_options(replace(store.options, overlap=1))
    assert number(undo(store, "ann")) == 0
    say(store, "ann", 2)
    batch = tmp_path / "b.jsonl"
    import_batch(store, batch, overlap=1)
    line = json.loads(batch.read_text()) | {"verdict": "candidate 2", "annotator": "zoe"}
    batch.write_text(json.dumps(line))
    import_batch(store, batch)
    undo(store, "bob")
    store.flag("bob", take(store, "bob").lease, "hm")
    with pytest.raises(Refused, match="You have flagged this item, and others have it"):
        undo(store, "bob")


def test_the_more_objective_comes_first_within_an_import(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, count=1, overlap=1)
    batch = write(tmp_path, "c", 6)
    rows = [json.loads(line) for line in batch.read_text().splitlines()]
    kinds = [("Subjective", "Low"), None, ("Objective", "High"), ("Objective", "Low"), ("Subjective", "Low"), None]
    for row, kind in zip(rows, kinds, strict=True):
        named = dict(zip(("preference_objectivity", "controversiality"), kind or (), strict=False))
        row["attributes"] = row["attributes"] | named if kind else None
    batch.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_batch(store, batch)
    import_batch(store, write(tmp_path, "d", 1))
    order = [(shown.item.batch, number(shown)) for shown in (say(store, "ann", 1) for _ in range(8))]
    assert order == [("b", 0), ("c", 3), ("c", 2), ("c", 0), ("c", 4), ("c", 1), ("c", 5), ("d", 0)]


def gold_store(folder: Path, clock: Clock, count: int, known: int, share: float, seed: int = 0) -> Store:
    store = hasty(Store(folder / f"store{seed}", Options(gold_share=share, seed=seed), clock))
    batch = write(folder, count=count)
    import_batch(store, batch, gold=answers_file(folder / "gold.jsonl", batch, ["candidate 1"] * known))
    store.annotator("ann", create=True)
    return store


def test_gold_checks_come_at_their_share_in_secret_places(tmp_path: Path, clock: Clock) -> None:
    places = []
    for seed in (0, 1):
        store = gold_store(tmp_path, clock, 400, 100, 0.2, seed)
        seen = []
        for n in range(250):
            before = store.progress("ann")
            seen.append(number(say(store, "ann", 1)))
            after = store.progress("ann")
            # No number tells a check.
            assert (after.answered, after.done) == (n + 1, before.done + 1)
            assert (before.open - after.open, before.waiting - after.waiting) == (1, 1)
            assert after.total == before.total == 400
        places.append([n for n, one in enumerate(seen) if one < 100])
        assert len(set(seen)) == 250
        assert 25 <= len(places[-1]) <= 75
        ordinary = [one for one in seen if one >= 100]
        assert ordinary == sorted(ordinary)
    assert places[0] != places[1]
    assert store.next("ann") is not None
    golden = [row for row in store.answers() if row.gold is not None]
    assert len(golden) == len(places[1]) and {row.origin for row in golden} == {"gold"}


def test_with_the_queue_empty_no_gold_check_is_left_to_tell(tmp_path: Path, clock: Clock) -> None:
    store = gold_store(tmp_path, clock, 20, 10, 0.3)
    got = 0
    while store.next("ann") is not None:
        say(store, "ann", 1)
        got += 1
    assert 10 <= got <= 20
    assert store.progress("ann") == Progress(got, 0, 0, got, 0, 0, got)


def test_a_gold_check_is_everybody_s_and_nobody_s_twice(tmp_path: Path, clock: Clock) -> None:
    store = gold_store(tmp_path, clock, 60, 3, 0.9)
    store.annotator("bob", create=True)
    for who in ("ann", "bob"):
        for _ in range(20):
            say(store, who, 1)
    checks = [(row.who, row.item) for row in store.answers() if row.gold is not None]
    assert len(checks) == len(set(checks)) == 6


def test_sides_depend_on_seed_annotator_and_item_and_stay(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, count=64, people=("ann", "bob"), overlap=2)
    swapped = {who: [say(store, who, 1).swapped for _ in range(64)] for who in ("ann", "bob")}
    assert all(20 <= sum(one) <= 44 for one in swapped.values())
    assert swapped["ann"] != swapped["bob"]
    assert undo(store, "ann").swapped == swapped["ann"][-1]
    store.close()
    (tmp_path / "again").mkdir()
    again = made(tmp_path / "again", clock, count=64, people=("ann",), seed=1)
    assert [say(again, "ann", 1).swapped for _ in range(64)] != swapped["ann"]


PEOPLE = {"ann": "annotator", "bob": "annotator", "cat": "annotator", "eve": "adjudicator", "fay": "adjudicator"}
ITEMS, CHECKS = 5, 2
SECONDS = 100.0


@dataclass
class Lease:
    id: str
    who: str
    item: int
    origin: str
    expires: float
    swapped: bool
    state: str = "live"


@dataclass
class Act:
    """An answer (`verdict` 0, 1 or 2) or a flag (None)."""

    lease: Lease
    verdict: int | None
    in_force: bool = True
    settled_by: "Act | None" = None


@dataclass
class Model:
    """What is said in the plan of the queue, looked up afresh at every question. Gold checks are items below CHECKS."""

    overlap: int
    leases: list[Lease] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    cursor: Counter[str] = field(default_factory=Counter)
    now: float = 0.0

    def answers(self, item: int) -> list[Act]:
        return [a for a in self.acts if a.lease.item == item and a.in_force and a.verdict is not None]

    def live(self, item: int) -> list[Lease]:
        return [one for one in self.leases if one.item == item and one.state == "live"]

    def state(self, item: int) -> str:
        flags = [a for a in self.acts if a.lease.item == item and a.in_force and a.verdict is None]
        if any(a.settled_by is None or not a.settled_by.in_force for a in flags):
            return "flagged"
        if item < CHECKS:
            return "gold"
        if any(a.settled_by is not None and a.settled_by.verdict == 0 for a in flags):
            return "done"
        said = Counter(a.verdict for a in self.answers(item))
        if said.total() < self.overlap:
            return "open"
        return "done" if said.total() > self.overlap or max(said.values()) * 2 > said.total() else "split"

    def keep_up(self, lease: Lease) -> str:
        """Whether a lease may go on ("live"), or why not; it does so if it may."""
        if lease.state == "expired":
            item, live = lease.item, self.live(lease.item)
            place = {
                "queue": self.state(item) == "open" and len(live) + len(self.answers(item)) < self.overlap,
                "gold": self.state(item) == "gold",
                "adjudication": self.waits_for_adjudicator(item),
            }[lease.origin]
            if not place or self.had(lease.who, item):
                return "stale"
        elif lease.state != "live":
            return "stale" if lease.state == "undone" else "duplicate"
        lease.state = "live"
        if lease.expires < self.now + 0.75 * SECONDS:
            lease.expires = self.now + SECONDS
        return "live"

    def waits_for_adjudicator(self, item: int) -> bool:
        state, live = self.state(item), self.live(item)
        busy = live if state == "split" else [one for one in live if one.origin == "adjudication"]
        return state in ("split", "flagged") and not busy

    def had(self, who: str, item: int) -> bool:
        return any(
            one.who == who and one.item == item and one.state in ("live", "answered", "flagged") for one in self.leases
        )

    def expire(self) -> None:
        for one in self.leases:
            if one.state == "live" and one.expires <= self.now:
                one.state = "expired"

    def next(self, who: str) -> tuple[int, str] | None:
        """What they get if it is no gold check."""
        early, late = [], []
        for item in range(CHECKS + ITEMS):
            if self.had(who, item):
                continue
            if self.state(item) == "open" and len(self.live(item)) + len(self.answers(item)) < self.overlap:
                (early if item <= self.cursor[who] else late).append((item, "queue"))
            if PEOPLE[who] == "adjudicator" and self.waits_for_adjudicator(item):
                early.append((item, "adjudication"))
        return min(early, default=min(late, default=None))


class QueueMachine(RuleBasedStateMachine):
    @initialize(overlap=st.integers(1, 3), share=st.sampled_from([0.0, 0.4]), seed=st.integers(0, 9))
    def begin(self, overlap: int, share: float, seed: int) -> None:
        self.folder = TemporaryDirectory()
        self.clock = Clock()
        path = Path(self.folder.name)
        self.share = share
        self.store = hasty(Store(path / "store", Options(overlap, SECONDS, share, seed), self.clock))
        batch = write(path, count=CHECKS + ITEMS)
        import_batch(self.store, batch, gold=answers_file(path / "gold.jsonl", batch, ["candidate 1"] * CHECKS))
        self.names = {item.item: n for n, item in enumerate(read_items(batch))}
        for who, role in PEOPLE.items():
            self.store.add_annotator(who, role)  # type: ignore[arg-type]
        self.model = Model(overlap, now=self.clock.time)
        self.model.cursor.update(dict.fromkeys(PEOPLE, -1))

    @rule(who=st.sampled_from(list(PEOPLE)))
    def next(self, who: str) -> None:
        model = self.model
        model.expire()
        held = [one for one in model.leases if one.who == who and one.state == "live"]
        shown = self.store.next(who)
        if held:
            assert shown is not None and shown.lease == held[-1].id
            model.keep_up(held[-1])
            assert shown.expires == held[-1].expires
            return
        expected = model.next(who)
        if expected is None:
            assert shown is None
            return
        assert shown is not None
        item, origin = number(shown), expected[1]
        if self.share and origin == "queue" and item < CHECKS:
            origin = "gold"
            assert model.state(item) == "gold"
            assert not any(one.who == who and one.item == item for one in model.leases)
        else:
            assert (item, origin) == expected
        if origin == "queue":
            model.cursor[who] = max(model.cursor[who], item)
        for one in model.leases:
            if (one.who, one.item, one.origin, one.state) == (who, item, origin, "expired"):
                # The page may be open still.
                assert one.id == shown.lease and model.keep_up(one) == "live" and one.expires == shown.expires
                return
        model.leases.append(Lease(shown.lease, who, item, origin, shown.expires, shown.swapped))

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), candidate=st.sampled_from([0, 1, 2, None]))
    def act(self, data: st.DataObject, candidate: int | None) -> None:
        """Answers or flags any lease that ever was."""
        lease = data.draw(st.sampled_from(self.model.leases[-6:]))
        reason = self.model.keep_up(lease)
        try:
            if candidate is None:
                self.store.flag(lease.who, lease.id, "why")
            else:
                side = Given("cannot decide")
                if candidate:
                    side = Given("left better" if (candidate == 1) != lease.swapped else "right better")
                self.store.answer(lease.who, lease.id, side)
        except Refused as error:
            assert error.reason == reason != "live"
            return
        assert reason == "live"
        lease.state = "flagged" if candidate is None else "answered"
        act = Act(lease, candidate)
        if candidate is not None and lease.origin == "adjudication":
            for flag in self.model.acts:
                settled = flag.settled_by is not None and flag.settled_by.in_force
                if flag.verdict is None and flag.lease.item == lease.item and not settled:
                    flag.settled_by = act
        self.model.acts.append(act)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), shows=st.booleans())
    def look(self, data: st.DataObject, shows: bool) -> None:
        """Opens the page of a lease, or is at work on it."""
        lease = data.draw(st.sampled_from(self.model.leases[-6:]))
        reason = self.model.keep_up(lease)
        try:
            (self.store.show if shows else self.store.renew)(lease.who, lease.id)
        except Refused as error:
            assert error.reason == reason == "stale"
            return
        assert reason != "stale"

    @rule(who=st.sampled_from(list(PEOPLE)), data=st.data())
    def undo(self, who: str, data: st.DataObject) -> None:
        model = self.model
        own = [a for a in model.acts if a.lease.who == who and a.in_force]
        last = self.store.last(who)
        assert last == (own[-1].lease.id if own else None)
        lease = data.draw(st.sampled_from([last or "", last or "", *(one.id for one in model.leases)]))
        before = [(one, one.state) for one in model.leases]
        model.expire()
        try:
            shown = self.store.undo(who, lease)
        except Refused as error:
            for one, state in before:
                one.state = state
            if not own:
                assert error.reason == "nothing"
            elif lease != last:
                assert error.reason == "stale"
            else:
                model.expire()
                item = own[-1].lease.item
                since = model.acts[model.acts.index(own[-1]) :]
                settled = any(
                    a.lease.origin == "adjudication" and a.lease.who != who and a in model.answers(item) for a in since
                )
                others = [*model.live(item), *(a.lease for a in model.answers(item))]
                adjudicated = "adjudication" in {one.origin for one in [*others, own[-1].lease]}
                crowded = own[-1].verdict is None and item >= CHECKS and len(others) >= model.overlap + adjudicated
                assert error.reason == "stale" and (settled or crowded)
                for one, state in before:
                    one.state = state
            return
        assert lease == last
        last = own[-1]
        assert number(shown) == last.lease.item
        last.in_force = False
        last.lease.state = "undone"
        model.leases.append(Lease(shown.lease, who, last.lease.item, last.lease.origin, shown.expires, shown.swapped))

    @rule(seconds=st.sampled_from([1.0, 30.0, 80.0]))
    def wait(self, seconds: float) -> None:
        self.clock.time += seconds
        self.model.now = self.clock.time

    @invariant()
    def limits_hold_and_nothing_is_lost(self) -> None:
        model = self.model
        for item in range(CHECKS, CHECKS + ITEMS):
            answers, live = model.answers(item), model.live(item)
            adjudicated = any(one.origin == "adjudication" for one in [*live, *(a.lease for a in answers)])
            assert len(answers) + len(live) <= model.overlap + adjudicated
            people = [a.lease.who for a in answers] + [one.who for one in live]
            assert len(set(people)) == len(people)
        assert [(row.who, self.names[row.item], row.verdict) for row in self.store.answers()] == [
            (a.lease.who, a.lease.item, ("undecidable", "candidate 1", "candidate 2")[a.verdict])
            for a in model.acts
            if a.in_force and a.verdict is not None
        ]
        states = Counter(model.state(item) for item in range(CHECKS + ITEMS))
        for who in PEOPLE:
            progress = self.store.progress(who)
            assert (progress.split, progress.flagged) == (states["split"], states["flagged"])
            theirs = [a for a in model.acts if a.in_force and a.verdict is not None and a.lease.who == who]
            assert progress.answered == len(theirs)
            assert progress.done == states["done"] + sum(a.lease.item < CHECKS for a in theirs)

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        tables = ("leases", "answers", "flags", "items", "annotators", "tally")
        with self.store.writing() as db:
            before = {name: _rows(db, name) for name in tables}
            events.rebuild(db)
            assert {name: _rows(db, name) for name in tables} == before
        self.store.close()
        self.folder.cleanup()


def _rows(db: sqlite3.Connection, table: str) -> list[tuple[object, ...]]:
    where = " WHERE n <> 0" if table == "tally" else ""
    return sorted(db.execute(f"SELECT * FROM {table}{where}"))


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


def test_no_search_goes_through_the_queue(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock)
    values = {"who": "ann", "cursor": 0, "start": 0, "limit": 1, "after": 0, "batch": "b"}
    with store.writing() as db:
        for query in (handing.FREE, handing.MISSED, handing.CHECK):
            plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", values))
            assert "SCAN" not in plan and "TEMP B-TREE" not in plan, plan


def test_a_turn_takes_no_longer_after_many(tmp_path: Path, clock: Clock) -> None:
    """Counts the steps of the database, which no busy machine changes."""
    store = made(tmp_path, clock, count=600, people=("ann", "bob", "cat"), overlap=3)

    def steps(who: str) -> int:
        count = 0

        def step() -> int:
            nonlocal count
            count += 1
            return 0

        store._db.set_progress_handler(step, 10)
        say(store, who, 1)
        store.progress(who)
        store._db.set_progress_handler(None, 0)
        return count

    for _ in range(5):
        say(store, "ann", 1)
    first = steps("ann")
    for _ in range(500):
        say(store, "ann", 1)
    assert steps("ann") < 1.5 * first
    for _ in range(300):
        say(store, "bob", 1)
    assert steps("bob") < 1.5 * first
