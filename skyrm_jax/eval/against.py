"""Earlier evaluations to compare with: the differences of all figures, with paired intervals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import UserError
from skyrm_jax.eval import heldout
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.eval.figures import Rewards, check_rewards
from skyrm_jax.eval.journal import FINISHED
from skyrm_jax.eval.rewards import HELD_OUT, RewardFile
from skyrm_jax.eval.sets import EvalSet
from skyrm_jax.eval.table import Difference, Table

RESULTS = "results.json"

Differences = dict[str, dict[str, dict[str, Difference]]]
"""Set, section, figure."""


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

    def differences(self, sets: Sequence[EvalSet], scored: Mapping[str, Rewards]) -> Differences:
        """Every figure of the sets less its own, where it has them; over the comparisons that both models could read."""
        found: Differences = {}
        for one in sets:
            if self.has(one):
                pairs = zip(one.comparisons, scored[one.name], self.rewards.of(one.name, one.comparisons), strict=True)
                comparisons, ours, its = zip(
                    *(three for three in pairs if three[1].size and three[2].size), strict=True
                )
                check_rewards(comparisons, its)
                found[one.name] = table(one.name, comparisons, ours).less(table(one.name, comparisons, its))
        return found


def table(name: str, comparisons: Sequence[Comparison], rewards: Rewards) -> Table:
    """The figures of a set."""
    make = heldout.table if name == HELD_OUT else BENCHMARKS[name].table
    return make(comparisons, rewards)
