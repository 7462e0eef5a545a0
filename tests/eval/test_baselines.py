"""The no-model rules find what is there to be found, and nothing in the synthetic comparisons."""

import zlib

import numpy as np

from skyrm_jax.comparison import Comparison
from skyrm_jax.data.synthetic import generate
from skyrm_jax.eval.baselines import bag_of_tokens, length_rule


def characters(text: str) -> list[int]:
    return [ord(c) % 256 for c in text]


def test_length_decides() -> None:
    made = [Comparison.of("p", ["x" * 9, "x" * n], chosen=0) for n in range(1, 9)]
    assert length_rule(made, made) == 1.0
    shorter = [Comparison.of("p", ["x" * n, "x" * 9], chosen=0) for n in range(1, 9)]
    assert length_rule(shorter, shorter) == 1.0
    # The direction is learned on the training comparisons alone.
    assert length_rule(made, shorter) == 0.0


def test_one_token_decides() -> None:
    rng = np.random.default_rng(0)

    def text(mark: str) -> str:
        return "".join(rng.permutation([*"abcdefgh"[: rng.integers(3, 9)], mark]))

    made = [Comparison.of(f"p{i}", [text("Y"), text("N")], chosen=0) for i in range(400)]
    assert bag_of_tokens(made[:300], made[300:], characters) > 0.98
    assert 0.3 < length_rule(made[:300], made[300:]) < 0.7


def test_synthetic_comparisons_give_nothing_away() -> None:
    made = list(generate(2000, seed=1))

    def words(text: str) -> list[int]:
        return [zlib.crc32(word.encode()) % 4096 for word in text.replace(",", " ,").split()]

    assert bag_of_tokens(made[:1700], made[1700:], words) < 0.65
    assert length_rule(made[:1700], made[1700:]) < 0.65
