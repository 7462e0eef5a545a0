"""What a benchmark rule returns: figures with their counts and intervals, in named sections."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import UserError
from skyrm_jax.eval.curves import Curve

Rewards = Sequence[np.ndarray]
"""For each comparison f[K], the rewards of its responses in order."""
Key = tuple[str, str]
"""Section and name of a figure."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a report.

    `value`, `low` and `high` (the 95 % bootstrap interval) are in percent. `total` is the number of scored
    units behind it; `correct` and `ties` are exact counts of those units, None where the figure is a mean of
    other figures.
    """

    value: float
    low: float
    high: float
    total: int
    correct: float | None = None
    ties: int | None = None


@dataclass(slots=True)
class Result:
    """The figures of one benchmark.

    Attributes:
        sections: section (a split, a difficulty) -> name -> figure.
        headline: section and name of the figure that the published tables carry.
        partial: line by line, which part of the benchmark is missing (empty: none).
        notes: what else a reader should know.
        curves: best-of-N curves by name.
        matrices: tables of percentages by name, such as chosen style x rejected style.
        drawn: the headline in every bootstrap replicate.
    """

    sections: dict[str, dict[str, Figure]]
    headline: Key | None = None
    partial: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    matrices: dict[str, list[list[float]]] = field(default_factory=dict)
    drawn: np.ndarray | None = None

    @property
    def headline_value(self) -> float | None:
        """The headline, None without one or where part of the benchmark is missing."""
        return None if self.headline is None or self.partial else self.figure(self.headline).value

    def figure(self, key: Key) -> Figure:
        """The figure of a section and name."""
        return self.sections[key[0]][key[1]]

    def to_dict(self) -> dict[str, object]:
        """Plain dictionaries and numbers, for JSON, without the replicates."""
        plain = asdict(replace(self, drawn=None))
        del plain["drawn"]
        return plain


def check_ids(comparisons: Sequence[Comparison]) -> None:
    """Raises UserError if an id is empty or occurs twice."""
    seen: dict[str, int] = {}
    for index, comparison in enumerate(comparisons):
        if not comparison.id:
            raise UserError(f"comparison {index} has no id: give every comparison an id of its own")
        if seen.setdefault(comparison.id, index) != index:
            raise UserError(
                f"comparison {index} has the id {comparison.id!r} of comparison {seen[comparison.id]}: "
                "remove one of the two"
            )


def check_rewards(comparisons: Sequence[Comparison], rewards: Rewards) -> None:
    """Raises UserError unless there is exactly one finite reward for every response of every comparison."""
    if len(rewards) != len(comparisons):
        raise UserError(
            f"{len(rewards)} lists of rewards for {len(comparisons)} comparisons: "
            "score every comparison, in the same order"
        )
    for index, (comparison, reward) in enumerate(zip(comparisons, rewards, strict=True)):
        name = f"comparison {index} (id {comparison.id!r})"
        if np.shape(reward) != (len(comparison.responses),):
            raise UserError(
                f"{name} has {len(comparison.responses)} responses but rewards of shape {np.shape(reward)}: "
                "one reward for every response is needed"
            )
        if not np.isfinite(reward).all():
            raise UserError(
                f"{name} has a reward that is not a finite number ({np.asarray(reward).tolist()}): "
                "the checkpoint or the rewards file is broken, and no figure is computed from it"
            )
