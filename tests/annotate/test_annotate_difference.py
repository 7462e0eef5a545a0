"""The word-level difference: what both texts share is found, all of both is shown, and it takes bounded time."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_pages import NASTY, Seen

from skyrm_jax.annotate.difference import Difference, difference

WORDS = st.lists(st.sampled_from("the quick brown fox jumps over lazy dog , .".split()), max_size=60)  # noqa: SIM905


def marks(html: str) -> list[str]:
    return re.findall("<mark>(.*?)</mark>", html, re.DOTALL)


def unmarked(html: str) -> str:
    return Seen.of(re.sub("<mark>.*?</mark>", " ", html, flags=re.DOTALL)).text


def test_words_that_differ_are_marked() -> None:
    found = difference("The quick brown fox jumps over it.", "The quick red fox jumps over it.")
    assert (marks(found.left), marks(found.right)) == (["brown"], ["red"])
    assert found.whole and found.shared == pytest.approx(14 / 16)


def test_spaces_do_not_count() -> None:
    found = difference("a  b\n\nc", " a b c ")
    assert not marks(found.left) and not marks(found.right) and found.shared == 1


def test_nothing_against_nothing_or_something() -> None:
    assert difference("", "").shared == 1
    found = difference("", "a b")
    assert marks(found.right) == ["a b"] and found.shared == 0
    assert not marks(difference(" ", "\n").left)


@given(WORDS, WORDS, st.sampled_from([10, 10_000_000]))
def test_both_texts_are_whole_and_what_is_not_marked_is_shared(one: list[str], two: list[str], steps: int) -> None:
    found = difference(" ".join(one), " ".join(two), steps)
    for words, html in ((one, found.left), (two, found.right)):
        assert Seen.of(html).text == " ".join(words)
    assert unmarked(found.left).split() == unmarked(found.right).split()
    assert 0 <= found.shared <= 1


@given(WORDS)
def test_the_same_text_has_no_difference(words: list[str]) -> None:
    found = difference(" ".join(words), " ".join(words))
    assert found == Difference(found.left, found.right, 1.0, True) and not marks(found.left)


def test_nasty_texts_stay_texts() -> None:
    found = difference("\n".join(NASTY), "\n".join(reversed(NASTY)))
    for html in (found.left, found.right):
        assert {tag for tag, _ in Seen.of(html).elements} <= {"pre", "mark"}
        assert "\x1b" not in html and "\u202e" not in html


@pytest.mark.parametrize("unit", ["a ", "x y ", ".,"])
def test_long_and_monotonous_texts_end_soon(unit: str) -> None:
    found = difference(unit * 400_000, f"b {unit}" * 200_000)
    assert not found.whole
    assert len(Seen.of(found.left).text) <= 100_000


def test_with_no_time_left_the_rest_counts_as_different() -> None:
    one = " ".join(f"w{n}" for n in range(100))
    two = " ".join(f"w{n}" for n in range(99, -1, -1))
    assert not difference(one, two, steps=150).whole and difference(one, two).whole
    assert difference(f"begin {one} end", f"begin {two} end", steps=0).shared == pytest.approx(4 / 204)
