"""The pages: what they show and do not show, and what becomes of what is posted, sent by whoever it may be."""

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, quote_from_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_batches import answers_file, hasty, write
from small_pages import NASTY, ORIGIN, Reader, Seen, reading, stored

from skyrm_jax.annotate import app as app_module
from skyrm_jax.annotate.exchange import import_batch
from skyrm_jax.annotate.given import CHOICES
from skyrm_jax.annotate.guard import HEADERS, LARGEST
from skyrm_jax.annotate.pages import KEYS
from skyrm_jax.annotate.store import Options, Store
from skyrm_jax.curate.attributes import NAMES
from skyrm_jax.curate.humans.batch import read_key

PAIRS = [(f"question {n}", f"GOOD {n}", f"BAD {n}") for n in range(8)]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Reader, Reader]]:
    with reading(hasty(stored(tmp_path, PAIRS)), "ann", "bob") as (ann, bob):
        yield ann, bob


def state(store: Store) -> tuple[int, int]:
    """What changes whenever anything is kept."""
    return sum(1 for _ in store.events()), sum(1 for _ in store.answers())


def test_an_answer_with_all_its_fields(pair: tuple[Reader, Reader], tmp_path: Path) -> None:
    ann, _ = pair
    page = ann.page()
    form = page.forms["/answer"]
    left = "GOOD" if "GOOD 0" in page.text.split("Right response")[0] else "BAD"
    said = {
        "tools": "search\r\n",
        "links": "https://a.example/x\r\n  https://b.example ",
        "note": " two\r\nlines <b> ",
        "seconds": "0.004",
        "annotation_guideline": "Another guideline.",
        "task_category": "Reasoning",
    }
    answer = ann.post("/answer", form | said | {"choice": "left much better"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/?did=answered")
    (row,) = ann.store.answers()
    assert row.attributes == {"annotation_guideline": "Another guideline.", "task_category": "Reasoning"}
    assert (row.tools, row.links) == ("search", ("https://a.example/x", "https://b.example"))
    assert (row.note, row.seconds, row.choice, row.who) == ("two\nlines <b>", 0.004, "left much better", "ann")
    key = read_key(tmp_path, "b")
    assert key.origins[row.item].verdict(row.verdict) == ("original" if left == "GOOD" else "flipped")
    assert "Answer kept." in ann.page("/?did=answered").text


def test_unchanged_fields_are_no_changes(pair: tuple[Reader, Reader]) -> None:
    ann, _ = pair
    ann.answer("both bad", tools="", links="", note="", seconds="nonsense")
    (row,) = ann.store.answers()
    assert not row.attributes and row.seconds >= 0 and row.choice == "both bad"


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_is_on_the_page_and_kept(pair: tuple[Reader, Reader], choice: str) -> None:
    ann, _ = pair
    page = ann.page()
    radios = {a["value"]: a["id"] for t, a in page.elements if t == "input" and a.get("name") == "choice"}
    assert radios == {one: f"choice-{KEYS[one]}" for one in CHOICES}
    assert ann.answer(choice).status_code == 303
    assert next(ann.store.answers()).choice == choice


def test_two_people_get_different_pairs_and_keep_them(pair: tuple[Reader, Reader]) -> None:
    ann, bob = pair
    first, second = ann.page(), bob.page()
    assert first.forms["/answer"]["lease"] != second.forms["/answer"]["lease"]
    assert "question 0" in first.text and "question 1" in second.text
    assert ann.page().forms["/answer"]["lease"] == first.forms["/answer"]["lease"]


def test_undo_brings_back_what_was_said(pair: tuple[Reader, Reader]) -> None:
    ann, _ = pair
    ann.answer("both good", note="my note", links="https://a.example", annotation_guideline="Mine.")
    answer = ann.post("/undo", ann.page().forms["/undo"])
    assert answer.status_code == 303
    page = ann.page(answer.headers["location"])
    form = page.forms["/answer"]
    assert (form["choice"], form["note"], form["links"]) == ("both good", "my note", "https://a.example")
    assert form["annotation_guideline"] == "Mine." and not list(ann.store.answers())
    assert ann.page().forms["/answer"]["lease"] == form["lease"]
    assert ann.post("/answer", form | {"choice": "right better"}).status_code == 303
    assert [row.choice for row in ann.store.answers()] == ["right better"]


def test_a_flag_needs_a_reason(pair: tuple[Reader, Reader]) -> None:
    ann, _ = pair
    form = ann.page().forms["/flag"]
    refused = ann.post("/flag", form | {"why": "  "})
    assert refused.status_code == 409 and "empty" in refused.text
    assert "/flag" in Seen.of(refused.text).forms
    assert ann.post("/flag", form | {"why": "cut off"}).headers["location"] == "/?did=flagged"
    assert [flag.why for flag in ann.store.flags()] == ["cut off"]
    assert "question 1" in ann.page().text


def test_a_refused_flag_leaves_what_was_answered_before_in_its_fields(pair: tuple[Reader, Reader]) -> None:
    ann, _ = pair
    ann.answer("both good", note="my note")
    ann.post("/undo", ann.page().forms["/undo"])
    refused = Seen.of(ann.post("/flag", ann.page().forms["/flag"] | {"why": " "}).text)
    assert (refused.forms["/answer"]["choice"], refused.forms["/answer"]["note"]) == ("both good", "my note")


def test_an_undo_is_of_one_answer_and_no_other(pair: tuple[Reader, Reader]) -> None:
    ann, _ = pair
    assert "/undo" not in ann.page().forms
    ann.answer("both good")
    old = ann.page().forms["/undo"]
    ann.answer("both bad")
    refused = ann.post("/undo", old)
    assert refused.status_code == 409 and "not the last" in refused.text and "out of date" in refused.text
    new = ann.page().forms["/undo"]
    assert ann.page("/history").forms["/undo"] == new
    assert [ann.post("/undo", new).status_code for _ in range(2)] == [303, 409]
    assert [row.choice for row in ann.store.answers()] == ["both good"]


def test_who_has_only_flagged_can_undo_that(tmp_path: Path) -> None:
    with reading(stored(tmp_path, PAIRS[:1]), "ann") as (ann,):
        ann.post("/flag", ann.page().forms["/flag"] | {"why": "cut off"})
        page = ann.page()
        assert "Nothing is left" in page.text
        assert ann.post("/undo", page.forms["/undo"]).status_code == 303
        assert "question 0" in ann.page().text and not ann.store.flags()


def test_when_nothing_is_left(tmp_path: Path) -> None:
    with reading(stored(tmp_path, PAIRS[:1]), "ann") as (ann,):
        ann.answer("left better")
        page = ann.page()
        assert "Nothing is left for you now" in page.text and "1 pair" in page.text
        assert ann.post("/undo", page.forms["/undo"]).status_code == 303
        assert "question 0" in ann.page().text


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    with reading(Store(tmp_path / "empty"), "ann") as (ann,):
        assert "Import a batch" in ann.page().text and "Stop" not in ann.page().text
        assert "answered nothing yet" in ann.page("/history").text
        assert "Nobody has answered" in ann.page("/agreement").text


def test_history_lists_answers_and_shows_them_again(pair: tuple[Reader, Reader]) -> None:
    ann, bob = pair
    ann.answer("left better", note="because <b>")
    page = ann.page("/history")
    assert "question 0" in page.text and "because <b>" in page.text and "Left better" in page.text
    (link,) = (a["href"] for t, a in page.elements if t == "a" and a["href"].startswith("/item/"))
    again = ann.page(link)
    assert "/answer" not in again.forms and "Left better" in again.text and "/undo" not in again.forms
    assert bob.page(link, 409).text.count("somebody else")


# Blindness


def test_before_the_answer_a_page_tells_nothing(tmp_path: Path) -> None:
    with reading(stored(tmp_path, PAIRS, reveal=True, review=True), "ann", "bob") as readers:
        key = read_key(tmp_path, "b")
        for reader in readers:
            shown = reader.store.next(reader.name)
            assert shown is not None
            origin = key.origins[shown.item.item]
            for view in ("rendered", "raw", "difference"):
                html = reader.client.get(f"/item/{shown.lease}?view={view}").text
                for secret in ("OPINION", "judge<", "original", "flipped", "reward model", "tored label"):
                    assert secret not in html
                for secret in (shown.item.item, origin.pair, "gold", "swapped", "candidate 1", "candidate 2"):
                    assert secret not in html


def test_sides_differ_between_people_and_are_what_was_recorded(tmp_path: Path) -> None:
    people = [f"p{n}" for n in range(8)]
    with reading(stored(tmp_path, PAIRS[:2], overlap=8), *people) as readers:
        sides = []
        for reader in readers:
            html = reader.page().text
            shown = reader.store.next(reader.name)
            assert shown is not None
            left = shown.item.candidates[1 if shown.swapped else 0][0].content
            assert left in html.split("Left response")[1].split("Right response")[0]
            sides.append(shown.swapped)
        assert len(set(sides)) == 2


def test_a_gold_check_looks_like_any_other_item(tmp_path: Path) -> None:
    """Two stores with the same texts, one as a gold check: the pages differ in what is random alone."""
    pages = []
    for name, share in (("plain", 0.0), ("gold", 0.999)):
        folder = tmp_path / name
        folder.mkdir()
        batch = write(folder, "x", 2)
        answers = answers_file(folder / "x.right.jsonl", batch, ["candidate 1", "candidate 1"])
        with Store(folder / "store", Options(gold_share=share)) as store:
            import_batch(store, write(folder, "b", 2))
            import_batch(store, batch, gold=answers if name == "gold" else None)
            reader = Reader(store).login("ann")
            reader.answer("both bad")
            while not re.search(r"question x \d", html := reader.client.get("/").text):
                reader.answer("both bad")
            pages.append(masked(html))
    assert pages[0] == pages[1]


def masked(html: str) -> str:
    """A page without what differs from item to item, and how many were answered."""
    for value in (r'(?<=name="csrf" value=")\w+', r'(?<=name="lease" value=")[\w-]+', r'(?<=data-draft=")\w+'):
        html, n = re.subn(value, "*", html)
        assert n
    html = re.sub(r"(?<=/item/)[\w-]{22}", "*", html)
    html = re.sub(r"(question x|good|bad) \d", "*", html)
    return re.sub(r"(?s)<progress.*?</span>", "*", html)


# Review


def test_review_reveals_after_the_answer_and_wants_a_reason(tmp_path: Path) -> None:
    with reading(stored(tmp_path, PAIRS, reveal=True, review=True), "ann") as (ann,):
        key = read_key(tmp_path, "b")

        def against() -> str:
            shown = ann.store.next("ann")
            assert shown is not None
            label = key.origins[shown.item.item].shown("original")
            return "right better" if (label == "candidate 1") != shown.swapped else "left better"

        choice = against()
        location = ann.answer(choice).headers["location"]
        page = ann.page(location)
        assert "You and the label disagree" in page.text and "OPINION" in page.text
        assert choice.capitalize() in page.text and "/explain" in page.forms
        assert "/explain" in ann.page().forms  # it cannot be passed over
        refused = ann.post("/explain", page.forms["/explain"] | {"why": " "})
        assert refused.status_code == 409 and "/explain" in Seen.of(refused.text).forms
        assert ann.post("/explain", page.forms["/explain"] | {"why": "I ran it."}).status_code == 303
        assert ann.post("/explain", page.forms["/explain"] | {"why": "again"}).status_code == 409
        assert next(ann.store.answers()).why == "I ran it."
        other = {"left better": "right better", "right better": "left better"}[against()]
        page = ann.page(ann.answer(other).headers["location"])
        assert "/explain" not in page.forms and "Next pair" in page.text
        assert "question 2" in ann.page().text


# What is posted


def test_forged_stale_and_duplicate_answers_are_409_and_change_nothing(pair: tuple[Reader, Reader]) -> None:
    ann, bob = pair
    form = ann.page().forms["/answer"] | {"choice": "left better"}
    theirs = bob.page().forms["/answer"] | {"choice": "left better"}
    assert ann.post("/answer", form).status_code == 303
    ann.page()
    before = state(ann.store)
    cases = {
        "duplicate": form,
        "not yours": form | {"lease": theirs["lease"]},
        "unknown": form | {"lease": "x" * 22},
        "invalid": ann.page().forms["/answer"] | {"choice": "best"},
    }
    for reason, fields in cases.items():
        answer = ann.post("/answer", fields)
        assert answer.status_code == 409, reason
        assert len(Seen.of(answer.text).text.strip()) > 40
        assert ann.post("/answer", fields, accept="application/json").json()["refused"] == reason
    ann.post("/undo", ann.page().forms["/undo"])
    before = state(ann.store)
    answer = ann.post("/answer", form, accept="application/json")
    assert (answer.status_code, answer.json()["refused"]) == (409, "stale")
    assert state(ann.store) == before


def test_an_answer_that_cannot_be_kept_comes_back_with_what_was_written(pair: tuple[Reader, Reader]) -> None:
    ann, _ = pair
    before = ann.page() and state(ann.store)
    answer = ann.answer("left better", note="long work <i>", links="ftp://x", annotation_guideline="Mine")
    form = Seen.of(answer.text).forms["/answer"]
    assert answer.status_code == 409 and "ftp://x" in answer.text
    assert (form["choice"], form["note"], form["annotation_guideline"]) == ("left better", "long work <i>", "Mine")
    assert state(ann.store) == before


def test_without_a_choice_the_rest_of_the_form_comes_back(pair: tuple[Reader, Reader]) -> None:
    ann, _ = pair
    form = ann.page().forms["/answer"] | {"note": "long work"}
    refused = ann.post("/answer", form)
    assert "choice" not in form and refused.status_code == 409
    assert Seen.of(refused.text).forms["/answer"]["note"] == "long work"


def test_a_busy_store_is_503_and_other_faults_of_it_are_not(
    pair: tuple[Reader, Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, _ = pair
    form = ann.page().forms["/answer"] | {"choice": "left better"}
    for words, status in (("database is locked", 503), ("no such table: items", 500)):

        def fail(*_: object, words: str = words) -> None:
            raise sqlite3.OperationalError(words)

        with monkeypatch.context() as patch:
            patch.setattr(Store, "answer", fail)
            answer = ann.post("/answer", form)
        assert answer.status_code == status and words not in answer.text
        assert ("try again" in answer.text) == ("retry-after" in answer.headers) == (status == 503)
    assert ann.post("/answer", form).status_code == 303


@pytest.mark.parametrize("path", ["/answer", "/explain", "/flag", "/undo", "/ping", "/logout"])
def test_nothing_is_posted_without_our_form_from_our_page_by_who_is_logged_in(
    pair: tuple[Reader, Reader], path: str
) -> None:
    ann, bob = pair
    ann.answer("left better")
    form = ann.page().forms["/answer"] | {"choice": "left better", "why": "x"}
    theirs = bob.page().forms["/answer"]["csrf"]
    before = state(ann.store)
    for csrf in ("", "x", theirs, "é", form["csrf"][:-1]):
        assert ann.post(path, form | {"csrf": csrf}).status_code == 403
    assert ann.post(path, {name: value for name, value in form.items() if name != "csrf"}).status_code == 403
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9"},
        {"origin": "http://["},
    ):
        assert ann.post(path, form, **headers).status_code == 403
    assert ann.client.post(path, data=form, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert Reader(ann.store).post(path, form).status_code == 401
    assert ann.client.post(path, json=form, headers={"origin": ORIGIN}).status_code == 415
    assert ann.client.post(path, files={"x": b"y"}, headers={"origin": ORIGIN}).status_code == 415
    assert ann.post(path, form | {"note": "x" * LARGEST}).status_code == 413
    assert ann.post(path, form | {f"f{n}": "" for n in range(50)}).status_code == 400
    assert ann.client.get(path).status_code == 405
    assert state(ann.store) == before


@pytest.fixture(scope="module")
def lasting() -> Iterator[Reader]:
    """Somebody in a store of many pairs."""
    with TemporaryDirectory() as folder:
        store = hasty(stored(Path(folder), [(f"q{n}", f"a{n}", f"b{n}") for n in range(600)]))
        with reading(store, "ann") as (ann,):
            yield ann


FIELDS = ("lease", "choice", "seconds", "tools", "links", "note", "why", *NAMES, "csrf", "x\x00y", "")
VALUE = (
    st.binary(max_size=40)
    | st.sampled_from([*(c.encode() for c in CHOICES), *(n.encode() for n in NASTY)])
    | st.sampled_from(
        [
            b"nan",
            b"inf",
            b"-1",
            b"1e999",
            b"https://x\x00",
            b"\xff\xfe",
            b"\xed\xa0\x80",
            b"Math",
            b"https://ok.example",
        ]
    )
)


@settings(max_examples=150)
@given(
    st.sampled_from(["/answer", "/flag", "/explain", "/undo", "/ping", "/login", "/logout"]),
    st.dictionaries(st.sampled_from(FIELDS), VALUE, max_size=6),
    st.booleans(),
)
def test_whatever_is_in_a_form_it_is_kept_or_refused(
    lasting: Reader, path: str, fields: dict[str, bytes], honest: bool
) -> None:
    form = lasting.page().forms["/answer"]
    sent = (
        {name: value.encode() for name, value in form.items()} if honest and path not in ("/logout", "/login") else {}
    )
    body = "&".join(f"{quote_from_bytes(n.encode())}={quote_from_bytes(v)}" for n, v in (sent | fields).items())
    before = state(lasting.store)
    kind = "application/x-www-form-urlencoded"
    answer = lasting.client.post(path, content=body, headers={"origin": ORIGIN, "content-type": kind})
    if path in ("/login", "/logout"):
        lasting.client.cookies.clear()
        lasting.login("ann")
    assert answer.status_code in (303, 400, 401, 403, 409) or (path, answer.status_code) == ("/ping", 204)
    after = state(lasting.store)
    if path == "/login":
        assert after[1] == before[1]
    elif answer.status_code != 303:
        assert after == before
    elif path == "/answer":
        assert after[1] == before[1] + 1


@settings(max_examples=150)
@given(st.sampled_from([b"text/html", b"application/x-www-form-urlencoded", b"\xff", b""]), st.binary(max_size=300))
def test_whatever_bytes_come_they_are_answered(lasting: Reader, kind: bytes, body: bytes) -> None:
    before = state(lasting.store)
    headers = [(b"origin", ORIGIN.encode()), (b"content-type", kind), (b"cookie", body[:20].replace(b"\n", b""))]
    for path in ("/answer", "/login"):
        assert lasting.client.post(path, content=body, headers=headers).status_code in (303, 400, 401, 403, 409, 415)
    assert state(lasting.store)[1] == before[1]


@settings(max_examples=100)
@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_path_is_asked_for_it_is_answered(lasting: Reader, one: str, two: str) -> None:
    before = state(lasting.store)
    for path in (
        f"/item/{quote(one)}?view={quote(two)}",
        f"/raw/{quote(one)}/{quote(two)}",
        f"/{quote(one)}",
        f"/static/../{quote(one)}",
    ):
        answer = lasting.client.get(path)
        assert answer.status_code in (200, 303, 307, 404, 405, 409), path
    assert state(lasting.store)[1] == before[1]


# Around it


def test_every_answer_has_the_headers(pair: tuple[Reader, Reader]) -> None:
    ann, _ = pair
    for path in (
        "/",
        "/login",
        "/nowhere",
        "/static/style.css",
        "/static/annotate.js",
        "/healthz",
        "/item/x",
        "/answer",
    ):
        headers = ann.client.get(path).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS
        assert headers["cache-control"] == "no-store"


def test_pages_say_what_went_wrong_and_hide_why(pair: tuple[Reader, Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    ann, _ = pair

    def fail(*_: object) -> None:
        raise RuntimeError("the password is 1234")

    monkeypatch.setattr(app_module, "texts_of", fail)
    answer = ann.client.get("/")
    assert answer.status_code == 500 and "1234" not in answer.text and "fault" in answer.text
    assert answer.headers["content-security-policy"]


def ids_of(page: Seen) -> list[str]:
    return [attributes["id"] for _, attributes in page.elements if "id" in attributes]


def test_every_field_has_a_label_and_every_page_its_landmarks(pair: tuple[Reader, Reader]) -> None:
    ann, _ = pair
    ann.answer("left better")
    for path in ("/", "/login", "/help", "/history", "/agreement", "/nowhere"):
        html = ann.client.get(path).text
        page = Seen.of(html)
        tags = [tag for tag, _ in page.elements]
        assert tags.count("h1") == tags.count("main") == tags.count("title") == 1
        assert ("clock" in ids_of(page)) == (path == "/") and "output" not in tags
        assert not any(a.get("id") == "clock" and a != {"id": "clock", "role": "timer"} for _, a in page.elements)
        assert {"header", "nav"} <= set(tags) and ("a", {"class": "skip", "href": "#main"}) in page.elements
        assert ("html", {"lang": "en"}) in page.elements
        assert [a.get("aria-live") for _, a in page.elements if a.get("id") == "status"] == ["polite"]
        labelled = {a["for"] for t, a in page.elements if t == "label" and "for" in a}
        ids = ids_of(page)
        assert len(ids) == len(set(ids)), path
        for tag, attributes in page.elements:
            if tag in ("textarea", "select") or (tag == "input" and attributes.get("type") != "hidden"):
                name = attributes.get("name")
                inside = f'name="{name}"' in html.split("<label>")[-1] or any(
                    f'name="{name}"' in part.split("</label>")[0] for part in html.split("<label")[1:]
                )
                assert attributes.get("id") in labelled or inside, (path, attributes)
            for reference in ("aria-labelledby", "aria-describedby", "form"):
                assert reference not in attributes or attributes[reference] in ids


def test_the_agreement_as_json(pair: tuple[Reader, Reader]) -> None:
    ann, _ = pair
    ann.answer("left better")
    found = json.loads(ann.client.get("/agreement.json").text)
    assert found["people"][0]["who"] == "ann" and found["people"][0]["answers"] == 1
