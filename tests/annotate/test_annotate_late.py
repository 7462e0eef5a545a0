"""Time: a pair stays with who is at work on it, and what comes late is kept, or given back as it was written."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_batches import Clock, hasty
from small_pages import Reader, Seen, reading, stored


@pytest.fixture
def timed(tmp_path: Path) -> Iterator[tuple[Reader, Reader, Clock]]:
    """Two people, one pair, and the clock of its store, whose leases last 100 seconds."""
    clock = Clock()
    store = hasty(stored(tmp_path, [("question 0", "good", "bad")], lease_seconds=100))
    store.now = clock
    with reading(store, "ann", "bob") as (ann, bob):
        yield ann, bob, clock


def test_a_page_on_which_somebody_works_keeps_its_pair(timed: tuple[Reader, Reader, Clock]) -> None:
    ann, bob, clock = timed
    page = ann.page()
    form = page.forms["/answer"]
    (pings,) = (a["data-ping"] for t, a in page.elements if t == "form" and "data-ping" in a)
    assert float(pings) <= 25
    for _ in range(10):
        clock.time += 80
        answer = ann.post("/ping", {"csrf": form["csrf"], "lease": form["lease"]})
        assert (answer.status_code, answer.text) == (204, "")
        assert "Nothing is left" in bob.page().text
    clock.time += 101
    assert "question 0" in bob.page().text
    answer = ann.post("/ping", {"csrf": form["csrf"], "lease": form["lease"]}, accept="application/json")
    assert (answer.status_code, answer.json()["refused"]) == (409, "stale")


def test_a_late_answer_is_kept_while_nobody_else_has_the_pair(timed: tuple[Reader, Reader, Clock]) -> None:
    ann, _, clock = timed
    form = ann.page().forms["/answer"] | {"choice": "left better", "note": "late"}
    clock.time += 10_000
    refused = ann.post("/answer", form | {"links": "ftp://x"})
    assert refused.status_code == 409 and Seen.of(refused.text).forms["/answer"]["note"] == "late"
    clock.time += 10_000
    assert ann.post("/answer", form).status_code == 303
    assert [row.note for row in ann.store.answers()] == ["late"]


def test_an_answer_that_comes_too_late_gives_back_what_was_written(timed: tuple[Reader, Reader, Clock]) -> None:
    ann, bob, clock = timed
    form = ann.page().forms["/answer"]
    clock.time += 101
    bob.answer("both bad")
    for links in ("https://a.example", "ftp://x"):  # the second could not be kept in any case
        refused = ann.post("/answer", form | {"choice": "left better", "note": "long\nwork <i>", "links": links})
        page = Seen.of(refused.text)
        assert refused.status_code == 409 and "out of date" in page.text and "/answer" not in page.forms
        for words in ("long\nwork <i>", links, "left better", "Note"):
            assert words in page.text
        assert form["lease"] not in refused.text and form["csrf"] in page.forms["/logout"].values()


def test_a_draft_is_found_again_with_another_lease(timed: tuple[Reader, Reader, Clock]) -> None:
    ann, bob, clock = timed

    def drafts(reader: Reader) -> tuple[str, str]:
        page = reader.page()
        (name,) = (a["data-draft"] for t, a in page.elements if "data-draft" in a)
        return name, page.forms["/answer"]["lease"]

    name, lease = drafts(ann)
    clock.time += 101
    assert drafts(bob)[0] != name
    clock.time += 101
    ann.answer("both bad")
    ann.post("/undo", ann.page().forms["/undo"])
    again = drafts(ann)
    assert again[0] == name and again[1] != lease
