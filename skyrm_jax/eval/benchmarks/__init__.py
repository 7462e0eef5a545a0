"""The benchmarks by name: one file each, from published records to comparisons and from rewards to figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import UserError
from skyrm_jax.eval.benchmarks import (
    judgebench,
    ppe_correctness,
    ppe_preference,
    rewardbench,
    rewardbench2,
    rm_bench,
    rmb,
)
from skyrm_jax.eval.benchmarks.reading import Published
from skyrm_jax.eval.figures import Result, Rewards, check_ids, check_rewards
from skyrm_jax.eval.statistics import interval
from skyrm_jax.eval.table import Table


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        column: its heading in the tables of the Skywork-Reward-V2 paper.
        published: the forms of its data; the first that is found is read.
        table: (comparisons, rewards) -> its figures, to compare two models by.
        rule: (comparisons, rewards) -> its figures, with what is missing.
    """

    column: str
    published: tuple[Published, ...]
    table: Callable[[Sequence[Comparison], Rewards], Table]
    rule: Callable[[Sequence[Comparison], Rewards], Result]

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.published[0].title

    def load(self, data: Path | None) -> list[Comparison]:
        """Its comparisons from a file or folder, or (None) the Hub.

        Raises UserError if nothing is there, or what is there is not this benchmark in order.
        """
        return self._form(data).load(data, FOLDERS)

    def is_in(self, data: Path | None) -> bool:
        """Whether there are files of it; in another benchmark's own folder there are none, whatever they are called."""
        own = {name for form in self.published for name in form.folders}
        if (
            data is not None
            and data.absolute().name in FOLDERS - own
            and not any((data / name).is_dir() for name in own)
        ):
            return False
        return any(_finds(form, data) for form in self.published)

    def score(self, comparisons: Sequence[Comparison], rewards: Rewards) -> Result:
        """The figures. Raises UserError if an id occurs twice, or a reward is missing or not finite."""
        check_ids(comparisons)
        check_rewards(comparisons, rewards)
        return self.rule(comparisons, rewards)

    def _form(self, data: Path | None) -> Published:
        return next((form for form in self.published if _finds(form, data)), self.published[0])


BENCHMARKS: Mapping[str, Benchmark] = {
    "rewardbench": Benchmark(
        "RewardBench",
        (rewardbench.PUBLISHED, rewardbench.PUBLISHED_LLMBAR),
        rewardbench.table,
        rewardbench.score,
    ),
    "rewardbench2": Benchmark("RewardBench v2", (rewardbench2.PUBLISHED,), rewardbench2.table, rewardbench2.score),
    "ppe-preference": Benchmark("PPE Pref", (ppe_preference.PUBLISHED,), ppe_preference.table, ppe_preference.score),
    "ppe-correctness": Benchmark(
        "PPE Corr", (ppe_correctness.PUBLISHED,), ppe_correctness.table, ppe_correctness.score
    ),
    "rmb": Benchmark("RMB", (rmb.PUBLISHED,), rmb.table, rmb.score),
    "rm-bench": Benchmark("RM-Bench", (rm_bench.PUBLISHED, rm_bench.PUBLISHED_DOMAINS), rm_bench.table, rm_bench.score),
    "judgebench": Benchmark("JudgeBench", (judgebench.PUBLISHED,), judgebench.table, judgebench.score),
}
"""In the order of the paper's tables."""

FOLDERS = {name for benchmark in BENCHMARKS.values() for form in benchmark.published for name in form.folders}
"""In a folder of all benchmarks each has its own, where the others do not look."""


def select(names: Sequence[str], data: Path | None) -> tuple[list[str], list[str]]:
    """(the benchmarks meant by `names`, those of "all" that `data` does not hold): names, also joined by commas, or all.

    Raises UserError for unknown ones, for names that name none, and where none is there.
    """
    wanted = [part for name in names for part in name.split(",") if part]
    if names and not wanted:
        raise UserError(f"--benchmarks: names none: choose from all, {', '.join(BENCHMARKS)}")
    for name in wanted:
        if name != "all" and name not in BENCHMARKS:
            raise UserError(f"--benchmarks: there is no {name!r}: choose from all, {', '.join(BENCHMARKS)}")
    if "all" not in wanted:
        return list(dict.fromkeys(wanted)), []
    if data is not None and not data.exists():
        raise UserError(f"--data {data}: no such file or folder")
    if data is not None and data.is_file():
        raise UserError(f"--data {data}: is one file: say of which benchmark, with --benchmarks NAME")
    found = [name for name, benchmark in BENCHMARKS.items() if name in wanted or benchmark.is_in(data)]
    if not found:
        folders = ", ".join(benchmark.published[0].folders[0] for benchmark in BENCHMARKS.values())
        raise UserError(f"--data {data}: holds no benchmark: make a folder for each, named {folders}")
    return found, [name for name in BENCHMARKS if name not in found]


def average(headlines: Mapping[str, float | None]) -> float | None:
    """The unweighted mean of the seven headlines, as the papers have it; None unless all seven are there, whole."""
    values = [headlines.get(name) for name in BENCHMARKS]
    return None if None in values else sum(v for v in values if v is not None) / len(values)


def average_interval(results: Mapping[str, Result]) -> tuple[float, float] | None:
    """The 95 % interval of `average`."""
    if average({name: result.headline_value for name, result in results.items()}) is None:
        return None
    return mean_interval({name: result.drawn for name, result in results.items() if result.drawn is not None})


def mean_interval(drawn: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """The 95 % interval of the mean of the seven, from the replicates of each: as no two share a comparison, these are
    paired at random."""
    rng = np.random.default_rng(0)
    mean = np.mean([rng.permutation(drawn[name]) for name in BENCHMARKS], axis=0)
    low, high = interval(mean[:, None])
    return float(low[0]), float(high[0])


def _finds(form: Published, data: Path | None) -> bool:
    try:
        return bool(form.find(data, FOLDERS))
    except UserError:
        return False
