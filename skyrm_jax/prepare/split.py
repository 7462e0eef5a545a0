"""Which comparisons are held out, and which only repeat others."""

import hashlib
import json

import numpy as np
from jaxtyping import Bool, UInt64

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import UserError


def split(prompts: UInt64[np.ndarray, "n"], held_out: float) -> Bool[np.ndarray, "n"]:
    """Which comparisons are held out: whole prompts by the order of their hashes, no more than asked for.

    `prompts` are `prompt_hash`es; `held_out` is a share below 1 or a number. Raises UserError if it is all, or if no
    prompt has as few comparisons as are wanted.
    """
    wanted = round(held_out * len(prompts)) if held_out < 1 else int(held_out)
    if wanted and wanted >= len(prompts):
        raise UserError(f"held_out = {held_out:g} of {len(prompts)} comparisons leaves nothing to train on; lower it")
    _, number, sizes = np.unique(prompts, return_inverse=True, return_counts=True)
    taken = np.zeros(len(sizes), bool)
    left = wanted
    for prompt, size in enumerate(sizes):
        if not left:
            break
        if size <= left:
            taken[prompt] = True
            left -= size
    if wanted and left == wanted:
        raise UserError(
            f"held_out = {held_out:g} asks for {wanted} of {len(prompts)} comparisons, but every prompt has more (at least "
            f"{np.min(sizes)}), and prompts are held out whole; raise it, or set it to 0"
        )
    return taken[number]


def prompt_hash(comparison: Comparison, seed: int) -> int:
    """64 bits that depend on the seed and on how the prompt opens: its messages up to the first user turn.

    Longer and shorter cuts of one dialogue open alike (one in eighteen of hh-rlhf's prompts continues another one), and the
    longer holds an answer to the shorter: they must not be on different sides of a split.
    """
    roles = [message.role for message in comparison.prompt]
    opening = comparison.prompt[: roles.index("user") + 1] if "user" in roles else comparison.prompt
    text = json.dumps([seed, *([m.role, m.content] for m in opening)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def content_hash(comparison: Comparison) -> bytes:
    """16 bytes that two comparisons share when they teach the same: prompt, set of responses, preferences among them."""
    prompt, *texts = (
        json.dumps([[m.role, m.content] for m in messages]) for messages in (comparison.prompt, *comparison.responses)
    )
    responses = sorted(set(texts))
    rank = {text: number for number, text in enumerate(responses)}
    pairs = sorted(
        (rank[texts[p.winner]], rank[texts[p.loser]], p.p, p.margin, p.weight) for p in comparison.preferences
    )
    return hashlib.blake2b(json.dumps([prompt, responses, pairs]).encode(), digest_size=16).digest()


def repeats(contents: UInt64[np.ndarray, "n 2"]) -> Bool[np.ndarray, "n"]:
    """Which of these `content_hash`es an earlier one equals."""
    order = np.lexsort((contents[:, 1], contents[:, 0]))  # stable: the first of equal ones stays first
    ordered = contents[order]
    found = np.zeros(len(contents), bool)
    found[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return found
