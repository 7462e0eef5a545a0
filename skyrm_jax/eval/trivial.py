"""Rewards without a model: what a trivial rule gets, so that a model's figures can be read."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from skyrm_jax.comparison import Comparison, Message
from skyrm_jax.errors import UserError
from skyrm_jax.eval.pairs import MARKDOWN, characters

Response = tuple[Message, ...]


def random(response: Response) -> float:
    """A number from 0 to 1 that depends on the text alone, so that equal responses tie and order does not matter."""
    text = "\0".join(message.content for message in response)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:3]) / 2**24


def longest_markdown(response: Response) -> float:
    """Characters in lines that hold markdown: a heading, list item, fence, quotation, bold text or code."""
    lines = (line for message in response for line in message.content.split("\n"))
    return float(sum(len(line) for line in lines if MARKDOWN.search(line)))


RULES: Mapping[str, Callable[[Response], float]] = {
    "length": lambda response: float(characters(response)),
    "random": random,
    "longest-markdown": longest_markdown,
}


def rewards(rule: str, comparisons: Sequence[Comparison]) -> list[np.ndarray]:
    """f32[K] for every comparison. Raises UserError for comparisons without text, such as a store's."""
    if not all(all(comparison.responses) for comparison in comparisons):
        raise UserError("--baseline needs text, and a store keeps none: give --held-out the files")
    return [np.array([RULES[rule](response) for response in c.responses], np.float32) for c in comparisons]
