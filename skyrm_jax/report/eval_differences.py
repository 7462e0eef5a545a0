"""What the page of an evaluation says of it against others: paired differences, and which are more than noise."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from skyrm_jax.report.eval_runs import Figure, Run, between, sets_of, title_of
from skyrm_jax.report.eval_section import strip
from skyrm_jax.report.tables import over

Parts = Mapping[str, Mapping[str, Figure]]
"""Section -> name -> difference."""


@dataclass(frozen=True)
class Difference:
    """A row: a figure of the first run less that of another.

    Attributes:
        strip: as in `eval_section.Row`, with 0 in the middle.
        verdict: "higher" or "lower" if the interval excludes 0.
    """

    name: str
    value: str
    interval: str
    strip: tuple[float, float, float] | None
    verdict: str
    headline: bool = False
    partial: bool = False


@dataclass(frozen=True)
class Against:
    """The first run less another.

    Attributes:
        headlines: one row for each set that has one.
        sets: title of the set -> title of the table -> rows.
        parts: of which sets only a part could be compared, and how much of it.
        clear, total: how many of all intervals exclude 0.
    """

    other: str
    headlines: list[Difference]
    sets: dict[str, dict[str, list[Difference]]]
    parts: list[str]
    clear: int
    total: int


def differences(mine: Run) -> list[Against]:
    """For each other evaluation what was compared with it."""
    return [against(mine, other, sets) for other, sets in (mine.data.get("against") or {}).items()]


def against(mine: Run, other: str, sets: Mapping[str, Parts]) -> Against:
    """The differences of those figures that the run's own tables show."""
    counts = {name: (one["comparisons"], one["of"]) for name, one in _compared(mine, other).items()}
    portions = {name: over(n, of) for name, (n, of) in counts.items() if n < of}
    heads: dict[str, Figure] = {}
    tables: dict[str, dict[str, list[Difference]]] = {}
    for name in sets_of([mine]):
        given = sets.get(name, {})
        shown = {
            part: kept
            for part, figures in (mine.results[name].get("sections") or {}).items()
            if (kept := {key: given[part][key] for key in figures if key in given.get(part, {})})
        }
        if not shown:
            continue
        section, figure = mine.results[name].get("headline") or ("", "")
        if figure in shown.get(section, {}):
            heads[name] = shown[section][figure]
        reach = reach_of(one for figures in shown.values() for one in figures.values())
        tables[title_of(name, [mine])] = {
            part: [difference(key, one, reach, headline=(part, key) == (section, figure)) for key, one in kept.items()]
            for part, kept in shown.items()
        }
    mean = (mine.data.get("mean_less") or {}).get(other)
    reach = reach_of([*heads.values(), *([mean] if mean else [])])
    rows = [row for parts in tables.values() for table in parts.values() for row in table]
    return Against(
        other,
        [
            difference(title_of(name, [mine]), one, reach, partial=bool(mine.partial(name)) or name in portions)
            for name, one in heads.items()
        ]
        + ([difference("Mean of seven", mean, reach, headline=True)] if mean else []),
        tables,
        [f"{title_of(name, [mine])}: {said}" for name, said in portions.items()],
        sum(bool(row.verdict) for row in rows),
        len(rows),
    )


def _compared(mine: Run, other: str) -> Mapping[str, Mapping[str, int]]:
    """Over how many comparisons of each set; empty where an older version wrote the file."""
    found: Mapping[str, Mapping[str, int]] = (mine.data.get("compared") or {}).get(other, {})
    return found


def reach_of(figures: Iterable[Figure]) -> float:
    """How far from 0 the intervals go, for a scale that they share."""
    return max((abs(one[end]) for one in figures if between(one) for end in ("low", "high")), default=0.0) or 1.0


def difference(name: str, of: Figure, reach: float, headline: bool = False, partial: bool = False) -> Difference:
    """One row, on a scale from -reach to reach."""
    known = bool(between(of))
    verdict = "" if not known else "higher" if of["low"] > 0 else "lower" if of["high"] < 0 else ""
    return Difference(
        name,
        f"{of['value']:+.2f}",
        f"{of['low']:+.2f} to {of['high']:+.2f}" if known else "",  # the digits that the verdict rests on
        strip(of, -reach, reach),
        verdict,
        headline,
        partial,
    )
