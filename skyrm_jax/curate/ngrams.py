"""Words of a text, and which of its n-grams of words stand in given sets of texts.

A word is what scikit-learn's CountVectorizer takes for one by default (lower case, `(?u)\\b\\w\\w+\\b`), except that each Han
character, kana and Hangul syllable is a word of its own: Chinese and Japanese have no spaces, so a whole sentence would be
one word. Other scripts without spaces (Thai, Lao, Khmer) are read as CountVectorizer reads them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Self

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt64

CJK = (
    "\u3005-\u3007"  # iteration and closing marks, zero
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f\U0001aff0-\U0001b16f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7a3"  # Hangul syllables
)

_WORDS = {shortest: re.compile(rf"[{CJK}]|[^\W{CJK}]{{{shortest},}}") for shortest in (1, 2)}


def words(text: str, shortest: int = 2) -> list[str]:
    """The words of a text, in order; those of fewer than `shortest` (1 or 2) characters are passed over, but not CJK's."""
    return _WORDS[shortest].findall(text.lower())


@dataclass(frozen=True)
class Hit:
    """What a text shares with a set.

    Attributes:
        set: the set's name.
        ngram: the first n-gram of the text that the set has, or the whole text's words if it equals a short one of the set.
        shared: how many different n-grams of the text the set has; 1 if the whole text is meant.
    """

    set: str
    ngram: str
    shared: int


@dataclass(frozen=True)
class NgramIndex:
    """All n-grams of some sets of texts, to be looked for in other texts.

    An n-gram is found by a 64-bit hash and then compared word by word, so that no collision counts as a find.

    Attributes:
        n: words of an n-gram.
        sets: names.
        vocabulary: word -> number, from 1.
        tokens: the words of all texts, one text after another, with a 0 after each.
        hashes: of every n-gram of every set, ascending.
        starts, of_set: for each hash, where in `tokens` the n-gram stands, and the number of its set.
        short: for texts of fewer than n words, `whole` of the text -> numbers of the sets that have it.
        counts: for each set, texts, different n-grams, and different short texts.
    """

    n: int
    sets: tuple[str, ...]
    vocabulary: dict[str, int]
    tokens: Int32[np.ndarray, "T"]
    hashes: UInt64[np.ndarray, "H"]
    starts: Int[np.ndarray, "H"]
    of_set: Int32[np.ndarray, "H"]
    short: dict[str, tuple[int, ...]] = field(default_factory=dict)
    counts: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def of(cls, sets: Mapping[str, Iterable[str]], n: int, short: bool = True) -> Self:
        """The index of the texts of each set; without `short`, texts of fewer than n words are passed over."""
        vocabulary: dict[str, int] = {}
        runs, hashes, starts, of_set, counts = [np.zeros(0, np.int32)], [], [], [], []
        whole_texts: dict[str, list[int]] = {}
        base = 0
        for number, texts in enumerate(sets.values()):
            ids: list[int] = []
            total = shorts = 0
            for text in texts:
                total += 1
                said = words(text)
                if len(said) >= n:
                    ids += [vocabulary.setdefault(word, len(vocabulary) + 1) for word in said]
                    ids.append(0)
                elif short and (key := whole(text, said)) and number not in whole_texts.setdefault(key, []):
                    whole_texts[key].append(number)
                    shorts += 1
            tokens = np.array(ids, np.int32)
            at = _distinct(tokens, np.flatnonzero(_inside(tokens, n)), n)
            runs.append(tokens)
            hashes.append(_hashes(tokens, n)[at])
            starts.append(at + base)
            of_set.append(np.full(len(at), number, np.int32))
            counts.append((total, len(at), shorts))
            base += len(tokens)
        found = np.concatenate([np.zeros(0, np.uint64), *hashes])
        order = np.argsort(found, kind="stable")
        return cls(
            n,
            tuple(sets),
            vocabulary,
            np.concatenate(runs),
            found[order],
            np.concatenate([np.zeros(0, np.int64), *starts])[order],
            np.concatenate([np.zeros(0, np.int32), *of_set])[order],
            {text: tuple(having) for text, having in whole_texts.items()},
            tuple(counts),
        )

    def find(self, texts: Sequence[str], overlap: int = 1) -> list[list[Hit]]:
        """For each text the sets of which it has at least `overlap` different n-grams, or equals a short text."""
        said = [words(text) for text in texts]
        hits: list[list[Hit]] = [self._as_a_whole(text, one) for text, one in zip(texts, said, strict=True)]
        lengths = np.array([len(one) + 1 for one in said], np.int64)
        ids = (self.vocabulary.get(word, 0) for word in chain.from_iterable((*one, "") for one in said))
        tokens = np.fromiter(ids, np.int32, int(lengths.sum()))
        at, rows = self._matches(tokens)
        begin = np.cumsum(lengths) - lengths
        text_of = np.searchsorted(begin, at, "right") - 1
        # In order of text, set and place; of equal n-grams the first counts.
        order = np.lexsort((at, rows, self.of_set[rows], text_of))
        at, rows, text_of = at[order], rows[order], text_of[order]
        fresh = np.ones(len(at), bool)
        fresh[1:] = (rows[1:] != rows[:-1]) | (text_of[1:] != text_of[:-1])
        at, sets, text_of = at[fresh], self.of_set[rows[fresh]], text_of[fresh]
        edges = np.flatnonzero(np.diff(text_of, prepend=-1, append=-1) | np.diff(sets, prepend=-1, append=-1))
        for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if last - first >= overlap:
                text = int(text_of[first])
                place = int(at[first:last].min() - begin[text])
                ngram = " ".join(said[text][place : place + self.n])
                hits[text].append(Hit(self.sets[sets[first]], ngram, last - first))
        return hits

    def _as_a_whole(self, text: str, said: Sequence[str]) -> list[Hit]:
        if len(said) >= self.n:
            return []
        key = whole(text, said)
        return [Hit(self.sets[number], key, 1) for number in self.short.get(key, ())]

    def _matches(self, tokens: Int32[np.ndarray, "t"]) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
        """Where n-grams of the index stand in `tokens`, and which rows of the index they are."""
        at = np.flatnonzero(_inside(tokens, self.n))
        sought = _hashes(tokens, self.n)[at]
        left, right = np.searchsorted(self.hashes, sought, "left"), np.searchsorted(self.hashes, sought, "right")
        many = right - left
        at = np.repeat(at, many)
        rows = np.arange(many.sum()) + np.repeat(left - (np.cumsum(many) - many), many)
        steps = np.arange(self.n)
        equal = (tokens[at[:, None] + steps] == self.tokens[self.starts[rows][:, None] + steps]).all(1)
        return at[equal], rows[equal]


def whole(text: str, said: Sequence[str]) -> str:
    """What two short texts are compared by: their words or, where there are none, the text without blanks around it."""
    return " ".join(said) or text.strip()


def _inside(tokens: Int32[np.ndarray, "t"], n: int) -> Bool[np.ndarray, "w"]:
    """For each window of n tokens whether it holds no 0: no end of a text, no unknown word."""
    if len(tokens) < n:
        return np.zeros(0, bool)
    zeros = np.concatenate([[0], np.cumsum(tokens == 0)])
    within: np.ndarray = zeros[n:] == zeros[:-n]
    return within


def _hashes(tokens: Int32[np.ndarray, "t"], n: int) -> UInt64[np.ndarray, "w"]:
    """64 bits for each window of n tokens."""
    return rolling(mix(tokens.astype(np.uint64)), n)


def rolling(mixed: UInt64[np.ndarray, "t"], n: int) -> UInt64[np.ndarray, "w"]:
    """64 bits for each window of n numbers that look random: a polynomial of them."""
    windows = max(0, len(mixed) - n + 1)
    total = np.zeros(windows, np.uint64)
    for j in range(n):
        total = total * np.uint64(0x9E3779B97F4A7C15) + mixed[j : j + windows]
    return mix(total)


def mix(x: UInt64[np.ndarray, "_"]) -> UInt64[np.ndarray, "_"]:
    """A permutation of the 64-bit numbers that looks random: the finaliser of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _distinct(tokens: Int32[np.ndarray, "t"], at: Int[np.ndarray, "w"], n: int) -> Int[np.ndarray, "d"]:
    """Of the windows of n tokens that begin `at`, one of each that are equal."""
    if not len(at):
        return at
    windows = np.lib.stride_tricks.sliding_window_view(tokens, n)[at]
    order = np.lexsort(windows.T)
    ordered = windows[order]
    fresh = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(1)])
    first: np.ndarray = at[order[fresh]]
    return first
