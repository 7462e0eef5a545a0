"""What a data set's comparisons are like on average, and the step time that the datasheets leave for them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from skyrm_jax.chips import Chip
from skyrm_jax.data.index import Index, visible_pairs
from skyrm_jax.models.flops import Flops


@dataclass(frozen=True)
class TreeStatistics:
    """Means over comparisons: tokens of the packed tree, (query, key) pairs its mask leaves, pairs of responses."""

    tokens: float
    visible: float
    pairs: float
    source: str

    @classmethod
    def of_store(cls, index: Index, name: str, sample: int = 1_000_000) -> "TreeStatistics":
        """Of a store's comparisons; of a million spread over it where it has more."""
        rows: Any = index[np.linspace(0, len(index) - 1, min(sample, len(index)), dtype=np.int64)]
        return cls(
            float(rows["tokens"].mean()), float(visible_pairs(rows).mean()), float(rows["pairs"].mean()), f"of {name}"
        )

    @classmethod
    def assumed(cls, tokens: int = 1024) -> "TreeStatistics":
        """A pair whose prompt is half of `tokens`, and each response a quarter."""
        prompt, response = tokens / 2, tokens / 4
        visible = prompt * (prompt + 1) / 2 + 2 * (prompt * response + response * (response + 1) / 2)
        return cls(tokens, visible, 1.0, "assumed; --store or --comparison-tokens says more")


@dataclass(frozen=True)
class Roofline:
    """Seconds of a step if the chips did nothing but the model's FLOPs, at their peak and at half of it."""

    at_peak: float

    @property
    def at_half(self) -> float:
        return 2 * self.at_peak


def roofline(per_comparison: Flops, batch: int, devices: int, chip: Chip) -> Roofline:
    """Of a step of `batch` comparisons."""
    return Roofline(per_comparison.total * batch / (devices * chip.flops))
