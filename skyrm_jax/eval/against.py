"""Earlier evaluations to compare with: the differences of all figures, with paired intervals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import UserError
from skyrm_jax.eval import heldout
from skyrm_jax.eval.benchmarks import BENCHMARKS, average, mean_interval
from skyrm_jax.eval.figures import Result, Rewards, check_rewards
from skyrm_jax.eval.journal import FINISHED
from skyrm_jax.eval.rewards import HELD_OUT, RewardFile
from skyrm_jax.eval.sets import EvalSet
from skyrm_jax.eval.table import Difference, Table

RESULTS = "results.json"


@dataclass(frozen=True)
class Compared:
    """Every figure of a set less another evaluation's.

    Attributes:
        differences: section -> figure -> difference; none where both models could read no comparison.
        comparisons: how many both could read, which alone count.
        of: how many there are.
        drawn: the headline's in every replicate, if there is a headline.
    """

    differences: dict[str, dict[str, Difference]]
    comparisons: int
    of: int
    drawn: np.ndarray | None = None


@dataclass(frozen=True)
class Earlier:
    """A finished evaluation: its results and its rewards."""

    folder: Path
    results: dict[str, Any]
    rewards: RewardFile

    @classmethod
    def read(cls, folder: Path) -> "Earlier":
        """Raises UserError if `folder` is not the --out of an evaluation."""
        try:
            results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
            _ = results["name"], results["results"], results["manifest"]["sets"]
        except FileNotFoundError:
            raise UserError(f"--against {folder}: no {RESULTS} there: give the --out of an evaluation") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"--against {folder / RESULTS}: cannot be read ({error!r}): evaluate again") from None
        if not (folder / FINISHED).is_file():
            raise UserError(
                f"--against {folder}: no {FINISHED} there: evaluate again, or copy it there from where it was"
            )
        return cls(folder, results, RewardFile(folder / FINISHED))

    def has(self, one: EvalSet) -> bool:
        """Whether it scored the comparisons of a set. Raises UserError if it scored others under that name."""
        found = self.results["manifest"]["sets"].get(one.name)
        if found is not None and found["content_sha256"] != one.facts["content_sha256"]:
            raise UserError(
                f"--against {self.folder}: its {one.name} holds other comparisons: evaluate both models on the same data"
            )
        return found is not None

    def compared(
        self, sets: Sequence[EvalSet], scored: Mapping[str, Rewards], results: Mapping[str, Result]
    ) -> dict[str, Compared]:
        """The sets less its own, where it has them; `results` say which figure is the headline of each."""
        found: dict[str, Compared] = {}
        for one in sets:
            if self.has(one):
                its = self.rewards.of(one.name, one.comparisons)
                both = [i for i, reward in enumerate(scored[one.name]) if reward.size and its[i].size]
                comparisons = [one.comparisons[i] for i in both]
                mine, others = ([rewards[i] for i in both] for rewards in (scored[one.name], its))
                check_rewards(comparisons, others)
                if not both:
                    found[one.name] = Compared({}, 0, len(its))
                    continue
                less, drawn = table(one.name, comparisons, mine).less(table(one.name, comparisons, others))
                headline = results[one.name].headline
                found[one.name] = Compared(less, len(both), len(its), None if headline is None else drawn.get(headline))
        return found

    def mean_less(self, compared: Mapping[str, Compared], results: Mapping[str, Result]) -> Difference | None:
        """The mean of the seven headlines less its own; None unless both models have all seven, whole."""
        mine = average({name: result.headline_value for name, result in results.items()})
        its = self.results.get("average")
        drawn = {name: one.drawn for name, one in compared.items() if one.drawn is not None}
        whole = all(name in drawn and compared[name].comparisons == compared[name].of for name in BENCHMARKS)
        return Difference(mine - its, *mean_interval(drawn)) if mine is not None and its is not None and whole else None


def table(name: str, comparisons: Sequence[Comparison], rewards: Rewards) -> Table:
    """The figures of a set."""
    make = heldout.table if name == HELD_OUT else BENCHMARKS[name].table
    return make(comparisons, rewards)
