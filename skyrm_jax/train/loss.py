"""The Bradley-Terry loss over the pairs of a micro-batch, and what is counted beside it."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Metrics = dict[str, Any]
"""Sums over pairs; counters are integers. Sums of micro-batches add up to those of the batch."""


def bradley_terry(rewards: Float[Array, "B S"], batch: dict[str, Array]) -> tuple[Float[Array, ""], Metrics]:
    """Sum over comparisons of the mean over their pairs of w * [-p log s(d - m) - (1 - p) log s(m - d)].

    s is the logistic function, d = r_winner - r_loser, m the margin, p the probability that the winner is preferred
    (Bradley and Terry 1952; soft labels and margins as in Llama 2, section 3.2.2). `pair_weight` already holds
    w over the number of pairs of the comparison. The caller divides by the batch's sum of weights.

    Returns:
        The fp32 sum and the metrics: integer `pairs`, `correct` and `ties` (d == 0, counted apart: a tie is not
        correct), where pairs with p = 0.5 prefer nothing and are not counted; fp32 sums of d, r and r^2 over them.
    """
    flat = rewards.astype(jnp.float32).reshape(-1)
    winner, loser = flat[batch["winner"]], flat[batch["loser"]]
    difference = winner - loser
    p, margin, weight = batch["p"], batch["margin"], batch["pair_weight"]
    excess = difference - margin
    losses = -p * jax.nn.log_sigmoid(excess) - (1 - p) * jax.nn.log_sigmoid(-excess)
    counted = (weight > 0) & (p != 0.5)
    preferred = jnp.where(p > 0.5, difference, -difference)
    metrics = {
        "pairs": counted.sum(dtype=jnp.int32),
        "correct": (counted & (preferred > 0)).sum(dtype=jnp.int32),
        "ties": (counted & (preferred == 0)).sum(dtype=jnp.int32),
        "margin_sum": jnp.where(counted, preferred, 0.0).sum(),
        "reward_sum": jnp.where(counted, (winner + loser) / 2, 0.0).sum(),
        "reward_square_sum": jnp.where(counted, (winner**2 + loser**2) / 2, 0.0).sum(),
    }
    return (weight * losses).sum(), metrics
