"""What rules without a model get on held-out comparisons: a data set that they solve shows nothing.

`python -m skyrm_jax.eval.baselines DATA... --store STORE --tokenizer DIR` prints them for the store's held-out pairs.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from skyrm_jax.chat import Chat
from skyrm_jax.comparison import Comparison
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import read_comparisons
from skyrm_jax.data.store import Store
from skyrm_jax.errors import UserError, run_command
from skyrm_jax.eval.heldout import decided
from skyrm_jax.forms import FORMS
from skyrm_jax.prepare.split import content_hash

Encode = Callable[[str], Sequence[int]]


def pairs(comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    """(preferred, other) texts of every decided preference."""
    found: list[tuple[str, str]] = []
    for comparison in comparisons:
        texts = ["\n".join(message.content for message in response) for response in comparison.responses]
        found += [(texts[better], texts[other]) for better, other in decided(comparison.preferences)]
    return found


def length_rule(train: Sequence[Comparison], held_out: Sequence[Comparison]) -> float:
    """Held-out accuracy of "the longer wins", or "the shorter wins" where that did better on `train`.

    Length is in characters; a tie is worth half.
    """

    def longer(comparisons: Sequence[Comparison]) -> float:
        signs = [np.sign(len(a) - len(b)) for a, b in pairs(comparisons)]
        return float(np.mean(signs) + 1) / 2

    share = longer(held_out)
    return share if longer(train) >= 0.5 else 1 - share


def bag_of_tokens(
    train: Sequence[Comparison],
    held_out: Sequence[Comparison],
    encode: Encode,
    decay: float = 1e-4,
    epochs: int = 3,
    batch: int = 256,
) -> float:
    """Held-out accuracy of a pairwise logistic regression on the difference of the responses' token counts.

    Adagrad on sparse rows with L2 `decay`; a tie is worth half.
    """
    cache: dict[str, np.ndarray] = {}

    def ids(text: str) -> np.ndarray:
        if text not in cache:
            cache[text] = np.asarray(encode(text), np.int64)
        return cache[text]

    def rows(comparisons: Sequence[Comparison]) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(ids(a), ids(b)) for a, b in pairs(comparisons)]

    learned, tested = rows(train), rows(held_out)
    size = max((int(x.max(initial=0)) for x in cache.values()), default=0) + 1
    weights, squares = np.zeros(size), np.full(size, 1e-8)

    def differences(chosen: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, ...]:
        """Row numbers, token ids and signs of the non-zero entries of the rows' count differences."""
        row = np.repeat(np.arange(len(chosen)), [len(a) + len(b) for a, b in chosen])
        token = np.concatenate([part for pair in chosen for part in pair])
        sign = np.concatenate([np.repeat([1.0, -1.0], [len(a), len(b)]) for a, b in chosen])
        return row, token, sign

    def margins(chosen: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        row, token, sign = differences(chosen)
        return np.bincount(row, weights[token] * sign, len(chosen))

    rng = np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(len(learned))
        for start in range(0, len(order), batch):
            chosen = [learned[i] for i in order[start : start + batch]]
            row, token, sign = differences(chosen)
            slope = 1 / (1 + np.exp(margins(chosen)))
            gradient = decay * weights - np.bincount(token, slope[row] * sign, size) / len(chosen)
            squares += gradient**2
            weights -= 0.1 * gradient / np.sqrt(squares)
    return float(np.mean(np.sign(margins(tested)) + 1) / 2)


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m skyrm_jax.eval.baselines", description="Rules without a model.")
    parser.add_argument("files", nargs="+", type=Path, help="the comparisons that the store was prepared from")
    parser.add_argument("--store", required=True, help="says which of them are held out")
    parser.add_argument("--tokenizer", required=True, help="whose tokens the bag holds")
    parser.add_argument("--form", default="auto", help=f"shape of the records: auto, {', '.join(FORMS)}")
    args = parser.parse_args(argv)
    store = Store.open(args.store)
    held = {stored.id for stored in store.read(store.index.held_out)}
    train: list[Comparison] = []
    held_out: list[Comparison] = []
    seen: set[bytes] = set()
    for comparison in read_comparisons(args.files, args.form, True, Quarantine()):
        content = content_hash(comparison)
        if content in seen:  # the store passed over it too
            continue
        seen.add(content)
        (held_out if comparison.id in held else train).append(comparison)
    if len(held_out) != len(held):
        raise UserError(
            f"{args.store} holds out {len(held)} comparisons, {len(held_out)} of them are in the files given"
        )
    if not held_out or not train:
        raise UserError(f"{args.store}: both training and held-out comparisons are needed")
    tokenizer = Chat.load(args.tokenizer).tokenizer
    words = bag_of_tokens(train, held_out, lambda text: tokenizer.encode(text, add_special_tokens=False))
    print(f"  length alone   {100 * length_rule(train, held_out):.1f} % of held-out pairs")
    print(f"  bag of tokens  {100 * words:.1f} % of held-out pairs")


if __name__ == "__main__":
    sys.exit(run_command(main))
