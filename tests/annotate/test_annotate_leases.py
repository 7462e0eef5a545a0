"""How long somebody has an item: they keep it while they are at it, and after that until somebody else takes the place."""

from pathlib import Path

import pytest
from small_batches import Clock, made, number, say, take

from skyrm_jax.annotate.given import Given
from skyrm_jax.annotate.store import Refused


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_they_hold_comes_again_and_lives_longer(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, lease_seconds=100)
    shown = take(store, "ann")
    for _ in range(5):
        clock.time += 80
        again = take(store, "ann")
        assert (again.lease, again.shown_at, again.expires) == (shown.lease, shown.shown_at, clock.time + 100)
    assert number(take(store, "bob")) == 1
    clock.time += 99
    store.show("ann", shown.lease)
    clock.time += 99
    store.answer("ann", shown.lease, Given("left better"))


def test_what_nobody_answers_in_time_goes_to_others_first(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, lease_seconds=100)
    shown = take(store, "ann")
    for n in (1, 2):
        assert number(say(store, "bob", 1)) == n
    clock.time += 100
    assert number(take(store, "bob")) == 0  # before what comes later in the queue
    for call, *arguments in ((store.answer, Given("left better")), (store.show,), (store.renew,), (store.flag, "x")):
        with pytest.raises(Refused, match="too long, and is somebody else's") as error:
            call("ann", shown.lease, *arguments)
        assert error.value.reason == "stale"
    assert number(take(store, "ann")) == 3
    clock.time += 100
    again = take(store, "ann")
    assert number(again) == 0 and again.lease == shown.lease  # they may have it again, with the page that is still open
    assert sum(event.kind == "expired" for event in store.events()) == 3


@pytest.mark.parametrize("meanwhile", ["nothing", "others answer", "they come back"])
def test_a_late_answer_counts_while_the_place_is_free(tmp_path: Path, clock: Clock, meanwhile: str) -> None:
    store = made(tmp_path, clock, lease_seconds=100, overlap=2)
    shown = take(store, "ann")
    clock.time += 5000
    if meanwhile != "nothing":
        assert number(say(store, "bob", 2)) == 0  # the other place
        assert number(take(store, "bob")) == 1
    if meanwhile == "they come back":
        assert take(store, "ann").lease == shown.lease
        clock.time += 5000
        take(store, "bob")
    store.answer("ann", shown.lease, Given("left better", seconds=4000.0))
    row = next(row for row in store.answers() if row.who == "ann")
    assert (row.choice, row.seconds) == ("left better", 4000.0)
    with pytest.raises(Refused, match="kept"):
        store.answer("ann", shown.lease, Given("left better"))
    assert number(take(store, "ann")) == 1


def test_a_late_answer_is_refused_when_the_item_is_not_theirs_to_answer(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, count=1, lease_seconds=100, overlap=2)
    shown = take(store, "ann")
    clock.time += 100
    store.flag("bob", take(store, "bob").lease, "broken")
    with pytest.raises(Refused) as error:
        store.answer("ann", shown.lease, Given("left better"))
    assert error.value.reason == "stale"
    store.add_annotator("ann", "adjudicator")
    decides = take(store, "ann")
    assert decides.lease != shown.lease
    store.answer("ann", decides.lease, Given("left better"))
    assert [row.origin for row in store.answers()] == ["adjudication"]


def test_who_is_at_work_keeps_the_item(tmp_path: Path, clock: Clock) -> None:
    store = made(tmp_path, clock, lease_seconds=100)
    shown = take(store, "ann")
    for n in range(1, 6):
        clock.time += 60
        store.renew("ann", shown.lease)
        assert number(say(store, "bob", 1)) == n
    with pytest.raises(Refused) as error:
        store.renew("bob", shown.lease)
    assert error.value.reason == "not yours"
    store.answer("ann", shown.lease, Given("left better"))
    store.renew("ann", shown.lease)  # of no effect, and no fault
    assert store.show("ann", shown.lease).answered
