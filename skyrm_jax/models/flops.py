"""Model FLOPs by formula: what a comparison costs, whatever computes it.

The compiler's own counts are of no use here: it counts the body of a scan once and a Pallas kernel as nothing.
"""

from dataclasses import dataclass

from skyrm_jax.models.architecture import Architecture


@dataclass(frozen=True)
class Flops:
    """Forward and backward, without what remat computes again."""

    products: float
    attention: float

    @property
    def total(self) -> float:
        return self.products + self.attention


def flops(architecture: Architecture, tokens: float, visible: float) -> Flops:
    """Of trees of so many tokens, whose masks leave so many (query, key) pairs.

    2 FLOPs per weight and token, 4 head_dim per query head and visible pair (q k and p v); backward twice that.
    """
    a = architecture
    products = 2 * a.layers * a.layer_matrices() * tokens
    attention = 4 * a.layers * a.heads * a.head_dim * visible
    return Flops(3 * products, 3 * attention)
