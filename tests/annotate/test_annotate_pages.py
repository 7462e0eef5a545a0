"""What pages show of the texts of others, and that none of it does anything."""

import re
from pathlib import Path

from small_batches import ATTRIBUTES
from small_pages import NASTY, checked, reading, stored

from skyrm_jax.annotate.content import title
from skyrm_jax.annotate.given import CHOICES
from skyrm_jax.annotate.pages import spoken
from skyrm_jax.comparison import Message
from skyrm_jax.curate.humans.batch import Item


def test_nasty_texts_and_names_do_nothing_on_any_page(tmp_path: Path) -> None:
    pairs = [(f"{text} {n}", f"{text} a", f"{text} b") for n, text in enumerate(NASTY)]
    with reading(stored(tmp_path, pairs), "<b>\"'&") as (reader,):
        allowed = {"/static/annotate.js"}
        for n in range(len(pairs)):
            shown = reader.store.next(reader.name)
            assert shown is not None
            for view in ("rendered", "raw", "difference"):
                page = reader.page(f"/item/{shown.lease}?view={view}")
                for tag, attributes in page.elements:
                    assert not any(
                        name.startswith("on") or name in ("style", "srcdoc", "formaction") for name in attributes
                    )
                    assert tag not in ("iframe", "object", "embed", "svg", "style", "base", "img", "form2")
                    assert tag != "script" or attributes["src"] in allowed
                    href = attributes.get("href", "/")
                    assert href.startswith(("/", "http://", "https://", "mailto:", "#main")) and not href.startswith(
                        "//"
                    )
                assert set(page.forms) == {"/answer", "/flag", "/logout", ""} | ({"/undo"} if n else set())
            reader.answer(CHOICES[n % 8], note=NASTY[n], tools=NASTY[n])
        page = reader.page("/history")
        assert set(page.forms) == {"/logout", "/undo"} and not [t for t, _ in page.elements if t in ("b", "img", "svg")]
        assert "<b>\"'&" in page.text


def test_a_megabyte_is_cut_and_can_be_had_whole(tmp_path: Path) -> None:
    long = "wörd " * 200_000
    with reading(stored(tmp_path, [("q", long, "short")]), "ann") as (ann,):
        shown = ann.store.next("ann")
        assert shown is not None
        side = "left" if len(shown.item.candidates[int(shown.swapped)][0].content) > 10 else "right"
        for view in ("rendered", "raw", "difference"):
            html = ann.client.get(f"/item/{shown.lease}?view={view}").text
            said = re.search(r"The first ([\d,]+) of 1,000,000 characters\.\s+<a href=\"([^\"]*)\"", html)
            assert len(html) < 450_000 and said and said[2] == f"/raw/{shown.lease}/{side}-0"
            assert abs(int(said[1].replace(",", "")) - html.count("wörd ") * 5) < 10
        answer = ann.client.get(f"/raw/{shown.lease}/{side}-0")
        assert answer.text == long and answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert ann.client.get(f"/raw/{shown.lease}/left-1").status_code == 404


def test_the_last_user_turn_is_marked(tmp_path: Path) -> None:
    with reading(stored(tmp_path, [("question", "good", "bad")]), "ann") as (ann,):
        (turn,) = (a for t, a in ann.page().elements if t == "article")
        assert turn == {"class": "turn user asks", "id": "asks"}
        assert ATTRIBUTES.annotation_guideline in ann.page().text


def test_messages_of_a_response_keep_their_roles_in_every_view(tmp_path: Path) -> None:
    calls = [
        {"role": "assistant", "content": "I look.\n<tool_call>\n{*x*}\n</tool_call>"},
        {"role": "tool", "content": "*5*"},
        {"role": "assistant", "content": "It is five."},
    ]
    with reading(checked(tmp_path, [], one=calls), "ann") as (ann,):
        shown = ann.store.next("ann")
        assert shown is not None
        side = "right" if shown.swapped else "left"
        for view in ("rendered", "raw", "difference"):
            page = ann.page(f"/item/{shown.lease}?view={view}")
            text = page.text.split(f"{side.capitalize()} response")[1]
            assert text.index("I look.") < text.index("Tool", text.index("{*x*}")) < text.index("*5*")
            assert "[assistant]" not in page.text
            assert [t for t, _ in page.elements].count("pre") >= 2
        assert ann.client.get(f"/raw/{shown.lease}/{side}-1").text == "*5*"


def test_titles_end_with_a_word_and_say_that_more_follows(tmp_path: Path) -> None:
    def titled(text: str) -> str:
        return title(Item("item", "batch", (Message("user", text),), ((), ())))

    assert titled("short") == "short" and titled("") == ""
    assert titled("w" * 74 + " broken") == "w" * 74 + " …"
    assert titled("solve " + "$" + "x " * 36 + "y$") == "solve …"
    assert titled("x" * 81) == "x" * 80 + " …"
    assert titled("x " * 39 + "yz") == "x " * 39 + "yz"
    with reading(stored(tmp_path, [("a word " * 30, "x", "y")]), "ann") as (ann,):
        ann.answer("both bad")
        assert "word a …" in " ".join(ann.page("/history").text.split())


def test_checks_stand_with_the_response_they_are_about_and_do_not_say_whose_they_are(tmp_path: Path) -> None:
    checks = [
        {"who": "model <a>", "candidate": 1, "verdict": "correct", "why": "Candidate 1 holds, unlike candidate 2."},
        {"who": "model b", "candidate": 2, "verdict": "incorrect", "why": "\ud800"},
        {"who": "model <a>", "candidate": 2, "verdict": "unsure", "why": "invents \u202e figures"},
    ]
    people = [f"p{n}" for n in range(8)]
    swapped = set()
    with reading(checked(tmp_path, checks, overlap=8), *people) as readers:
        for reader in readers:
            shown = reader.store.next(reader.name)
            assert shown is not None
            page = reader.page()
            left, right = page.text.split("Left response\n")[1].split("Right response\n")
            one, two = (right, left) if shown.swapped else (left, right)
            assert "Check 1: Correct" in one and "Check 2: Incorrect" in two and "Check 1: Unsure" in two
            sides = ("Right", "left") if shown.swapped else ("Left", "right")
            assert f"{sides[0]} response holds, unlike {sides[1]} response." in one
            assert "Invents ‹U+202E› figures" in two
            assert "model" not in page.text.split("What you used")[0]
            swapped.add(shown.swapped)
            reader.answer("both bad")
            assert "model <a>" not in reader.page(f"/item/{shown.lease}").text
    assert swapped == {True, False}


def test_words_of_models_begin_large_and_speak_of_responses() -> None:
    assert spoken("asks no tool. left candidate does.") == "Asks no tool. Left response does."
    assert spoken("f(x) = 2, so the right candidate is wrong") == "f(x) = 2, so the right response is wrong"
    assert spoken("") == "" and spoken("sin(x) < 1\ud800") == "sin(x) < 1‹U+D800›"
