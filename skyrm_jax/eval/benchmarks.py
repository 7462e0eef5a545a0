"""The benchmarks by name: where a new one is registered, and how its data is found under --data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import UserError
from skyrm_jax.eval import judgebench
from skyrm_jax.eval.figures import Result


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A title for people, the published files -> comparisons, and (comparisons, rewards) -> figures."""

    title: str
    load: Callable[[Path], list[Comparison]]
    score: Callable[[Sequence[Comparison], Sequence[np.ndarray]], Result]


BENCHMARKS = {
    "judgebench": Benchmark("JudgeBench", judgebench.load, judgebench.score),
}


def select(names: Sequence[str]) -> list[str]:
    """The benchmarks meant by `names`: "all", or names, also joined by commas.

    Raises UserError for unknown ones.
    """
    wanted = [part for name in names for part in name.split(",") if part]
    if "all" in wanted:
        return list(BENCHMARKS)
    for name in wanted:
        if name not in BENCHMARKS:
            raise UserError(f"--benchmarks: there is no {name!r}: choose from all, {', '.join(BENCHMARKS)}")
    return list(dict.fromkeys(wanted))


def load(name: str, data: Path) -> list[Comparison]:
    """The comparisons of benchmark `name` from `data/name` if that exists, else from `data` itself (folder
    or file).

    Raises UserError if nothing is there or the files are not that benchmark's.
    """
    if not data.exists():
        raise UserError(f"--data {data}: no such file or folder")
    inside = data / name
    return BENCHMARKS[name].load(inside if inside.exists() else data)
