"""One evaluation as the page of evaluations sees it: a results.json, and the figures of it that others compare with."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Any

from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.eval.rewards import HELD_OUT
from skyrm_jax.report.page_style import COLORS, said_time
from skyrm_jax.report.style import BLUE, GREEN, ORANGE, PURPLE

Figure = Mapping[str, Any]
"""value, low, high in percent; total, correct, ties."""


@dataclass(frozen=True)
class Mark:
    """How a run looks in every plot, and in the text beside: a colour, and a shape for who cannot tell colours."""

    color: str
    marker: str
    glyph: str

    @property
    def name(self) -> str:
        """The page's name of the colour."""
        return COLORS[self.color]


def mark(number: int) -> Mark:
    """The mark of a run, by its place among the runs; those of the first twenty differ."""
    colors, shapes = (BLUE, ORANGE, GREEN, PURPLE), (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"))
    marker, glyph = shapes[number % len(shapes)]
    return Mark(colors[number % len(colors)], marker, glyph)


@dataclass(frozen=True)
class Run:
    """One evaluation.

    Args:
        name: what the page calls it, different from the names of the others.
        mark: how it looks.
        data: its results.json.
    """

    name: str
    mark: Mark
    data: Mapping[str, Any]

    @property
    def results(self) -> Mapping[str, Any]:
        """Set -> its figures and what else was found."""
        found: Mapping[str, Any] = self.data.get("results") or {}
        return found

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What produced it."""
        found: Mapping[str, Any] = self.data.get("manifest") or {}
        return found

    @property
    def rewards(self) -> Mapping[str, Any]:
        """Where its rewards come from."""
        found: Mapping[str, Any] = self.manifest.get("rewards") or {}
        return found

    @property
    def billions(self) -> float | None:
        """Parameters of its model, None where they are not known."""
        count = self.rewards.get("parameters")
        return count / 1e9 if count else None

    @property
    def average(self) -> float | None:
        """The mean of the seven headlines; None unless all seven are whole, whatever the file says."""
        value = self.data.get("average")
        return None if value is None or any(self.comparable(name) is None for name in BENCHMARKS) else float(value)

    @property
    def average_interval(self) -> Sequence[float] | None:
        """That of the average; None where there is none, or an older version wrote the file."""
        found: Sequence[float] | None = self.data.get("average_interval")
        return None if self.average is None else found

    def facts(self, name: str) -> Mapping[str, Any]:
        """What its manifest says of a set."""
        found: Mapping[str, Any] = (self.manifest.get("sets") or {}).get(name) or {}
        return found

    def partial(self, name: str) -> list[str]:
        """What of a set is missing, line by line."""
        return list((self.results.get(name) or {}).get("partial") or [])

    def headline(self, name: str) -> Figure | None:
        """The figure of a set that published tables carry; None where there is none."""
        result = self.results.get(name) or {}
        if not result.get("headline"):
            return None
        section, figure = result["headline"]
        found: Figure | None = (result.get("sections") or {}).get(section, {}).get(figure)
        return found

    def comparable(self, name: str) -> float | None:
        """The headline of a whole benchmark; None of part of one, which compares with no published figure."""
        figure = self.headline(name)
        return None if figure is None or self.partial(name) else float(figure["value"])

    def scored_other_data(self, other: "Run", name: str) -> bool:
        """Whether this run and the other are known to have scored different comparisons under one name."""
        mine, theirs = (run.facts(name) for run in (self, other))
        keys = [key for key in ("content_sha256", "fingerprint") if mine.get(key) and theirs.get(key)]
        return any(mine[key] != theirs[key] for key in keys)

    def scored(self) -> str:
        """What made its rewards, in one line."""
        of = self.rewards
        parts = [f"{what} {of[what]}" for what in ("checkpoint", "endpoint", "baseline") if of.get(what)]
        parts += [f"step {of['step']:,}"] if of.get("step") is not None else []
        parts += [f"model {of['model']}"] if of.get("model") else []
        parts += [self.size(), str(of.get("compute_dtype") or "")]
        parts += [f"up to {of['max_tokens']:,} tokens"] if of.get("max_tokens") else []
        parts += [f"rewards read from {of['file']}"] if of.get("file") else []
        return ", ".join(part for part in parts if part) or "rewards of unknown origin"

    def size(self) -> str:
        """Its number of parameters, for people; empty where it is not known."""
        if self.billions is None:
            return ""
        number = f"{self.billions:.2f} B" if self.billions >= 1 else f"{1000 * self.billions:.3g} M"
        return f"{number} parameters"

    def created(self) -> str:
        """When it was made, for people; empty where the manifest does not say."""
        text = str(self.manifest.get("created") or "")
        try:
            return said_time(datetime.fromisoformat(text).timestamp()) if text else ""
        except ValueError:
            return text

    def command(self) -> str:
        """What was typed, empty if unknown."""
        return shlex.join(str(part) for part in self.manifest.get("command") or [])


def runs_of(data: Sequence[Mapping[str, Any]]) -> list[Run]:
    """The runs, with names that differ: the second `a` is called `a (2)`."""
    runs: list[Run] = []
    for number, one in enumerate(data):
        name = str(one.get("name") or "unnamed")
        taken, again = {run.name for run in runs}, 1
        while (name if again == 1 else f"{name} ({again})") in taken:
            again += 1
        runs.append(Run(name if again == 1 else f"{name} ({again})", mark(number), one))
    return runs


def sets_of(runs: Sequence[Run]) -> list[str]:
    """The sets of any run: benchmarks in the order of the papers' tables, then others, held-out comparisons last."""
    found = dict.fromkeys(name for run in runs for name in run.results)
    known = [name for name in BENCHMARKS if name in found]
    others = [name for name in found if name not in BENCHMARKS and name != HELD_OUT]
    return [*known, *others, *([HELD_OUT] if HELD_OUT in found else [])]


def title_of(name: str, runs: Sequence[Run] = ()) -> str:
    """What people call a set."""
    said = next((run.results[name]["title"] for run in runs if run.results.get(name, {}).get("title")), None)
    if said is not None:
        return str(said)
    return BENCHMARKS[name].title if name in BENCHMARKS else "Held out" if name == HELD_OUT else name


def short(model: str) -> str:
    """A published model of Skywork-Reward-V2 without what all of their names begin with."""
    return model.removeprefix("Skywork-Reward-V2-")


def number(value: Any, digits: int = 1) -> str:
    """A figure as text, a dash for none."""
    return "–" if value is None or not isfinite(value) else f"{value:.{digits}f}"


def between(figure: Figure, digits: int = 1) -> str:
    """The interval of a figure as text, empty where it has none."""
    return spanning((figure.get("low"), figure.get("high")), digits)


def spanning(interval: Sequence[float | None] | None, digits: int = 1) -> str:
    """An interval as text, empty where it is not known."""
    low, high = interval or (None, None)
    known = low is not None and high is not None and isfinite(low) and isfinite(high)
    return f"{number(low, digits)} to {number(high, digits)}" if known else ""
