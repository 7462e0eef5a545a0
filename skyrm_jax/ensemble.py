"""One reward from several models: what the members of an ensemble agree on."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from skyrm_jax.errors import UserError

RULES: dict[str, str] = {
    "mean": "the average",
    "min": "the lowest",
    "mean-std": "the average less k standard deviations",
}
"""`min` and `mean-std` distrust responses on which the members disagree (Coste et al. 2023, arXiv:2310.02743)."""

Combine = Callable[[Sequence[Float[np.ndarray, "K"]]], Float[np.ndarray, "K"]]
"""The members' rewards of the K responses of one comparison -> the ensemble's."""


def combiner(rule: str, k: float = 1.0) -> Combine:
    """The function of a rule; the standard deviation is that of the members (divided by their number).

    Raises:
        UserError: there is no such rule, k is negative, or k is given to a rule that has none.
    """
    if rule not in RULES:
        raise UserError(f"there is no ensemble rule {rule!r}: choose from {', '.join(RULES)}")
    if rule != "mean-std" and k != 1.0:
        raise UserError(f"k is of the rule mean-std; the rule {rule} has none: leave it out, or choose mean-std")
    if not 0 <= k < np.inf:
        raise UserError(f"k is {k}, but an ensemble may not reward disagreement: give 0 or more")

    def combine(members: Sequence[np.ndarray]) -> np.ndarray:
        rewards = np.stack(members).astype(np.float64)
        if rule == "min":
            combined = rewards.min(0)
        else:
            combined = rewards.mean(0) - (k * rewards.std(0) if rule == "mean-std" else 0.0)
        return combined.astype(np.float32)

    return combine
