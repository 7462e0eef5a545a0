"""Who comes in, who is known again, and who is not any more."""

import json
import stat
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_batches import Clock, hasty
from small_pages import ORIGIN, SECRET, Reader, reading, stored

from skyrm_jax.annotate.login import DAYS, Sessions, secret_of
from skyrm_jax.annotate.store import Store
from skyrm_jax.errors import UserError

PAIRS = [("q", "good", "bad")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with stored(tmp_path, PAIRS) as store:
        yield hasty(store)


def test_the_secret_is_made_once_and_is_secret(tmp_path: Path) -> None:
    secret = secret_of(tmp_path)
    assert secret_of(tmp_path) == secret and len(secret) == 32
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    (tmp_path / "secret").write_text("ab")
    with pytest.raises(UserError, match="does not hold a key"):
        secret_of(tmp_path)


def test_a_session_ends_in_time_with_another_secret_and_with_a_new_token(store: Store) -> None:
    clock = Clock()
    token = store.add_annotator("ann")
    sessions = Sessions(store, SECRET, True, clock)
    assert sessions.begin("wrong") is None and sessions.begin("") is None
    session = sessions.begin(token)
    assert session is not None and session.annotator.name == "ann" and token not in session.csrf
    assert sessions.find(session.cookie) == session
    assert Sessions(store, b"t" * 32, True, clock).find(session.cookie) is None
    assert Sessions(store, SECRET, False, clock).find(session.cookie) is None
    clock.time += DAYS * 86_400 + 1
    assert sessions.find(session.cookie) is None
    clock.time -= DAYS * 86_400
    assert sessions.find(session.cookie) == session
    store.add_annotator("ann")
    assert sessions.find(session.cookie) is None


def test_a_draft_is_kept_under_who_and_what_and_tells_neither(store: Store) -> None:
    sessions = Sessions(store, SECRET, False)
    ann, again, bob = (sessions.begin(who) for who in ("ann", "ann", "bob"))
    assert ann and again and bob and ann.cookie != again.cookie
    assert sessions.draft(ann, "i") == sessions.draft(again, "i")
    drafts = {sessions.draft(session, item) for session in (ann, bob) for item in ("gold-7", "gold-8")}
    assert len(drafts) == 4 and not any("gold" in draft or "ann" in draft for draft in drafts)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=200), st.integers(0, 200))
def test_a_forged_cookie_is_nobodys(store: Store, text: str, place: int) -> None:
    sessions = Sessions(store, SECRET, False)
    session = sessions.begin("ann")
    assert session is not None
    place %= len(session.cookie)
    for forged in (text, session.cookie[:place] + text + session.cookie[place + 1 :], session.cookie[:place]):
        assert forged == session.cookie or sessions.find(forged) is None
    assert not sessions.is_ours(session, text) and not sessions.is_ours(session, "")


def test_a_wrong_token_is_401_and_gets_no_cookie(store: Store) -> None:
    token = store.add_annotator("ann")
    reader = Reader(store, tokens=True)
    for said in ("wrong", "", token[:-1], token + "x", "ann"):
        answer = reader.post("/login", {"said": said})
        assert answer.status_code == 401 and "set-cookie" not in answer.headers
        assert 'role="alert"' in answer.text and token[:-1] not in answer.text
    assert reader.client.get("/").headers["location"] == "/login"
    answer = reader.post("/login", {"said": f" {token} "})
    assert answer.status_code == 303
    for word in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert word.casefold() in answer.headers["set-cookie"].casefold()
    value = answer.headers["set-cookie"].split("=", 1)[1].split(";")[0].split(".")[0]
    said = urlsafe_b64decode(value + "=" * (-len(value) % 4))
    assert token not in answer.headers["set-cookie"] and token not in str(said)
    assert token.encode().hex() not in str(said)
    assert json.loads(said)[0] == "ann"  # it was read as it is
    assert reader.client.get("/").status_code == 200


def test_on_loopback_a_name_will_do_if_it_is_one(store: Store) -> None:
    reader = Reader(store)
    for said in ("", "a\nb", "x" * 100, "\x00"):
        assert reader.post("/login", {"said": said}).status_code == 400
    assert [one.name for one in store.annotators()] == []
    reader.login("Zoë Ångström")
    assert "Zoë Ångström" in reader.page().text


def test_a_login_from_elsewhere_is_refused(store: Store) -> None:
    reader = Reader(store)
    for origin in ("http://evil.example", "null", "http://localhost.evil.example", "http://localhost:81"):
        assert reader.post("/login", {"said": "ann"}, origin=origin).status_code == 403
    assert not store.annotators()


def test_logging_out(tmp_path: Path) -> None:
    with reading(stored(tmp_path, PAIRS), "ann") as (ann,):
        form = ann.page().forms["/logout"]
        assert ann.post("/logout", {"csrf": ""}).status_code == 403
        assert ann.client.get("/").status_code == 200
        cookies = dict(ann.client.cookies)
        assert ann.post("/logout", form).status_code == 303
        assert ann.client.get("/").headers["location"] == "/login"
        ann.client.cookies.update(cookies)  # a copy of it
        assert ann.client.get("/").headers["location"] == "/login"
        assert ann.login("ann").page("/").forms["/answer"]


def test_only_adjudicators_see_the_agreement_where_tokens_are_needed(store: Store) -> None:
    ann, boss = (
        Reader(store, tokens=True).login(store.add_annotator(*who)) for who in (("ann",), ("boss", "adjudicator"))
    )
    for path in ("/agreement", "/agreement.json"):
        assert ann.client.get(path).status_code == 403
        assert boss.client.get(path).status_code == 200
        assert Reader(store, tokens=True).client.get(path).status_code == 401
    assert 'href="/agreement"' not in ann.client.get("/").text
    assert 'href="/agreement"' in boss.client.get("/").text


def test_the_host_must_be_ours(store: Store) -> None:
    client = Reader(store).client
    for host in ("localhost", "localhost:8765", "127.0.0.1:1", "[::1]:8765", "LOCALHOST"):
        assert client.get("/healthz", headers={"host": host}).text == "ok"
    for host in (
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "10.0.0.1",
        "",
        "x@localhost",
        "localhost/x",
        "[",
    ):
        assert client.get("/healthz", headers={"host": host}).status_code == 400
    assert client.get("/healthz", headers={"origin": ORIGIN}).headers["content-security-policy"]
