"""Words are CountVectorizer's, but for CJK; n-grams are found exactly, as a naive search finds them."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrm_jax.curate import ngrams
from skyrm_jax.curate.ngrams import Hit, NgramIndex, words


@given(st.text(st.characters(max_codepoint=0x2FFF, exclude_categories=["Cs"])))
def test_words_are_those_of_count_vectorizer(text: str) -> None:
    assert words(text) == re.findall(r"(?u)\b\w\w+\b", text.lower())
    assert words(text, 1) == re.findall(r"(?u)\b\w+\b", text.lower())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("请写一首诗。", ["请", "写", "一", "首", "诗"]),
        ("用Python3写a函数, OK?", ["用", "python3", "写", "函", "数", "ok"]),
        ("こんにちは、カタカナー・ﾊﾝｶｸ", list("こんにちはカタカナーﾊﾝｶｸ")),
        ("안녕 세계 go", ["안", "녕", "세", "계", "go"]),
        ("𠀀𠀁 々〆 x", ["𠀀", "𠀁", "々", "〆"]),
        ("naïve Ünïcode_9 don't", ["naïve", "ünïcode_9", "don"]),
    ],
)
def test_each_cjk_character_is_a_word(text: str, said: list[str]) -> None:
    assert words(text) == said


def naive(sets: Mapping[str, Sequence[str]], n: int, text: str, overlap: int, short: bool) -> list[Hit]:
    """What NgramIndex(sets, n, short).find([text], overlap) should be."""

    def grams(one: str) -> list[tuple[str, ...]]:
        said = words(one)
        return [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]

    def key(one: str) -> str:
        return " ".join(words(one)) or one.strip()

    hits = []
    for name, texts in sets.items():
        known = {gram for one in texts for gram in grams(one)}
        shared = [gram for gram in dict.fromkeys(grams(text)) if gram in known]
        if len(words(text)) < n:
            if short and key(text) and key(text) in {key(one) for one in texts if len(words(one)) < n}:
                hits.append(Hit(name, key(text), 1))
        elif len(shared) >= overlap:
            hits.append(Hit(name, " ".join(shared[0]), len(shared)))
    return hits


spoken = st.lists(st.sampled_from(["ab", "cd", "ef", "gh", "x", "?!", "好"]), max_size=12).map(" ".join)


@pytest.mark.parametrize("hashes", ["good", "colliding"])
@given(
    sets=st.dictionaries(st.sampled_from("ABC"), st.lists(spoken, max_size=5), max_size=3),
    texts=st.lists(spoken, max_size=6),
    n=st.integers(1, 4),
    overlap=st.integers(1, 3),
    short=st.booleans(),
)
def test_finds_what_a_naive_search_finds(
    hashes: str, sets: dict[str, list[str]], texts: list[str], n: int, overlap: int, short: bool
) -> None:
    def few(tokens: np.ndarray, size: int) -> np.ndarray:
        return np.full(max(0, len(tokens) - size + 1), 7, np.uint64)

    with pytest.MonkeyPatch.context() as patch:
        if hashes == "colliding":
            patch.setattr(ngrams, "_hashes", few)
        index = NgramIndex.of(sets, n, short)
        found = index.find(texts, overlap)
    assert found == [naive(sets, n, text, overlap, short) for text in texts]
    assert index.sets == tuple(sets)
    for prompts, counts in zip(sets.values(), index.counts, strict=True):
        said = [words(prompt) for prompt in prompts]
        different = {tuple(one[i : i + n]) for one in said for i in range(len(one) - n + 1)}
        assert counts[:2] == (len(prompts), len(different))


def test_no_ngram_runs_over_the_end_of_a_text_or_over_an_unknown_word() -> None:
    index = NgramIndex.of({"set": ["one two three", "four five six"]}, 3)
    assert index.find(["two three four", "three four five", "one two new three", "zero one two three"]) == [
        [],
        [],
        [],
        [Hit("set", "one two three", 1)],
    ]
    assert index.find(["one two", "three four five six"])[0] == []


def test_a_text_without_words_is_compared_as_it_is() -> None:
    index = NgramIndex.of({"set": ["2 + 2?", " ", "a b"]}, 13)
    assert index.find(["2 + 2? ", "3 + 3?", "", "a b", "a c"]) == [
        [Hit("set", "2 + 2?", 1)],
        [],
        [],
        [Hit("set", "a b", 1)],
        [],
    ]
