"""Votes become a verdict: inside each model first, then over the models."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrm_jax.curate.judge import Verdict, Vote
from skyrm_jax.curate.votes import VoteOptions, decide
from skyrm_jax.errors import UserError

VERDICTS: tuple[Verdict, ...] = ("original", "flipped", "none")
SHORT: dict[str, Verdict | None] = {"o": "original", "f": "flipped", "n": "none", "x": None}


def cast(**samples: str) -> list[Vote]:
    """Votes by annotator: a letter of SHORT for each."""
    return [
        Vote("p", name, i, False, None, SHORT[letter], 1, "", "")
        for name, letters in samples.items()
        for i, letter in enumerate(letters)
    ]


@pytest.mark.parametrize(
    ("samples", "merge", "verdict", "share"),
    [
        ({"a": "ooff"}, "majority", "none", 1.0),  # a tie in a model: no preference
        ({"a": "oof"}, "majority", "original", 1.0),
        ({"a": "oofn"}, "majority", "original", 1.0),
        ({"a": "on"}, "majority", "none", 1.0),
        ({"a": "xxo"}, "majority", "original", 1.0),  # failed votes do not count
        ({"a": "ooo", "b": "ffo", "c": "fff"}, "majority", "flipped", 2 / 3),  # models count, not votes: o 4, f 5
        ({"a": "oooo", "b": "f", "c": "f"}, "majority", "flipped", 2 / 3),
        ({"a": "o", "b": "f"}, "majority", "none", 0.0),  # a tie of models
        ({"a": "o", "b": "f", "c": "n"}, "majority", "none", 1 / 3),
        ({"a": "o", "b": "xx"}, "majority", "original", 1.0),
        ({"a": "o", "b": "f", "c": "f"}, "weighted", "original", 0.5 / 0.8),
        ({"b": "o", "c": "f", "d": "f"}, "weighted", "flipped", 1.2 / 1.3),
        ({"a": "o", "b": "o"}, "unanimous", "original", 1.0),
        ({"a": "o", "b": "o", "c": "n"}, "unanimous", "none", 1 / 3),
        ({"a": "oof", "b": "oxx", "c": "xxx"}, "unanimous", "original", 1.0),
    ],
)
def test_known_cases(samples: dict[str, str], merge: Any, verdict: Verdict, share: float) -> None:
    weights = {"a": 0.5, "b": 0.1, "c": 0.2}
    decision = decide(cast(**samples), VoteOptions(merge), weights)
    assert decision.verdict == verdict and decision.share == pytest.approx(share)
    letters = Counter("".join(samples.values()))
    assert decision.failed == letters.pop("x", 0)
    assert decision.counts == {SHORT[letter]: count for letter, count in letters.items()}


def test_weights_are_added_exactly() -> None:
    """As floats 0.1 + 0.2 is more than 0.3, and no tie."""
    weights = {"a": 0.1, "b": 0.2, "c": 0.3}
    assert decide(cast(a="o", b="o", c="f"), VoteOptions("weighted"), weights).verdict == "none"


def test_too_few_valid_votes_leave_a_pair_unlabelled() -> None:
    votes = cast(a="oox", b="xo")
    assert decide(votes, VoteOptions(min_votes=3)).verdict == "original"
    decision = decide(votes, VoteOptions(min_votes=4))
    assert (decision.verdict, decision.share, decision.failed) == (None, 0.0, 2)
    assert decision.counts == {"original": 3} and decision.models == {"a": "original", "b": "original"}
    assert decide(cast(a="xx"), VoteOptions()).verdict is None


@given(
    st.dictionaries(st.sampled_from("abcde"), st.text("ofnx", min_size=1, max_size=6), min_size=1),
    st.sampled_from(["majority", "weighted", "unanimous"]),
    st.integers(0, 2**16),
)
def test_the_rules(samples: dict[str, str], merge: Any, seed: int) -> None:
    votes = cast(**samples)
    weights = {name: 1.0 for name in samples}
    decision = decide(votes, VoteOptions(merge), weights)
    shuffled = list(votes)
    random.Random(seed).shuffle(shuffled)
    again = decide(shuffled, VoteOptions(merge), weights)
    assert (
        again == decision
        and list(again.counts) == list(decision.counts)
        and list(again.models) == list(decision.models)
    )
    # Turned round, all is turned round.
    turned = {name: letters.translate(str.maketrans("of", "fo")) for name, letters in samples.items()}
    other = {"original": "flipped", "flipped": "original", "none": "none", None: None}
    assert decide(cast(**turned), VoteOptions(merge), weights).verdict == other[decision.verdict]
    # By the words of the rule, in another way.
    of_models = []
    for letters in samples.values():
        counts = Counter(letters.replace("x", "")).most_common()
        if counts:
            of_models.append("n" if len(counts) > 1 and counts[0][1] == counts[1][1] else counts[0][0])
    if not of_models:
        assert decision.verdict is None
        return
    counts = Counter(of_models).most_common()
    if len(counts) == 1:
        expected = counts[0][0]
    else:
        expected = "n" if merge == "unanimous" or counts[0][1] == counts[1][1] else counts[0][0]
    assert decision.verdict == SHORT[expected]
    assert decision.share == pytest.approx(of_models.count(expected) / len(of_models))


def test_votes_on_two_pairs_are_no_decision() -> None:
    other = Vote("q", "a", 0, False, None, "none", 1, "", "")
    with pytest.raises(ValueError):
        decide([*cast(a="o"), other], VoteOptions())


def test_options_that_cannot_be() -> None:
    with pytest.raises(UserError, match=r"votes\.merge must be one of majority, weighted, unanimous"):
        VoteOptions("all")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"votes\.min_votes must be at least 1"):
        VoteOptions(min_votes=0)
