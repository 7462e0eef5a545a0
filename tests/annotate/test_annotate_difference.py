"""The word-level difference: what both texts share is found, all of both is shown, and it takes bounded time."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_pages import NASTY, Seen

from skyrm_jax.annotate import difference as module
from skyrm_jax.annotate.difference import MOST, STEPS, Difference

WORDS = st.lists(st.sampled_from("the quick brown fox jumps over lazy dog , .".split()), max_size=60)  # noqa: SIM905


def difference(left: str, right: str, steps: int = STEPS) -> Difference:
    """Of two texts."""
    return module.difference([left], [right], steps)


def marks(side: tuple[str, ...]) -> list[str]:
    return re.findall("<mark>(.*?)</mark>", "".join(side), re.DOTALL)


def unmarked(side: tuple[str, ...]) -> str:
    return Seen.of(re.sub("<mark>.*?</mark>", " ", "".join(side), flags=re.DOTALL)).text


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
        assert Seen.of("".join(html)).text == " ".join(words)
    assert unmarked(found.left).split() == unmarked(found.right).split()
    assert 0 <= found.shared <= 1


@given(WORDS)
def test_the_same_text_has_no_difference(words: list[str]) -> None:
    found = difference(" ".join(words), " ".join(words))
    assert found == Difference(found.left, found.right, 1.0, True) and not marks(found.left)


def test_nasty_texts_stay_texts() -> None:
    found = difference("\n".join(NASTY), "\n".join(reversed(NASTY)))
    for html in (found.left, found.right):
        assert {tag for tag, _ in Seen.of("".join(html)).elements} <= {"pre", "mark"}
        assert "\x1b" not in html[0] and "\u202e" not in html[0]


@pytest.mark.parametrize("unit", ["a ", "x y ", ".,"])
def test_long_and_monotonous_texts_end_soon(unit: str) -> None:
    found = difference(unit * 400_000, f"b {unit}" * 200_000)
    assert not found.whole
    assert len(Seen.of(found.left[0]).text) <= MOST


def test_with_no_time_left_the_rest_counts_as_different() -> None:
    one = " ".join(f"w{n}" for n in range(100))
    two = " ".join(f"w{n}" for n in range(99, -1, -1))
    assert not difference(one, two, steps=150).whole and difference(one, two).whole
    assert difference(f"begin {one} end", f"begin {two} end", steps=0).shared == pytest.approx(4 / 204)


def test_several_texts_of_a_side_are_compared_as_one_and_marked_apart() -> None:
    found = module.difference(["the quick", " brown fox ", ""], ["the quick brown", "wolf"])
    assert [Seen.of(html).text for html in found.left] == ["the quick", " brown fox ", ""]
    assert [Seen.of(html).text for html in found.right] == ["the quick brown", "wolf"]
    assert (marks(found.left), marks(found.right)) == (["fox"], ["wolf"])
    assert not marks(found.left[:1]) and not marks(found.right[:1])
    split = module.difference(["a b c", "d e f"], ["x b c d e y"])
    assert [marks((html,)) for html in split.left] == [["a"], ["f"]]


def test_the_limit_is_for_all_texts_of_a_side() -> None:
    one, two = "a " * (MOST // 2 - 5), "b " * 10
    assert module.beginnings([one, two, two]) == [one, two[:10], ""]
    found = module.difference([one, two], [one])
    assert not found.whole and Seen.of(found.left[1]).text.split() == ["b"] * 5
