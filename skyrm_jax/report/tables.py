"""Terminal tables of figures, with intervals, counts and ties beside every number."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from skyrm_jax.eval.curves import Curve
from skyrm_jax.eval.figures import Result
from skyrm_jax.eval.table import Difference

if TYPE_CHECKING:
    from skyrm_jax.eval.against import Compared


def print_result(console: Console, title: str, result: Result) -> None:
    """Prints one benchmark: a table for each section, the headline in bold, and what is missing from it."""
    for section, figures in result.sections.items():
        table = _table(f"{title}: {section}")
        table.add_column("figure")
        for column in ("%", "95 % interval", "correct", "ties", "of"):
            table.add_column(column, justify="right")
        for name, figure in figures.items():
            table.add_row(
                escape(name),
                f"{figure.value:.2f}",
                f"{figure.low:.1f} to {figure.high:.1f}",
                "" if figure.correct is None else f"{round(figure.correct, 2):,}",
                "" if figure.ties is None else f"{figure.ties:,}",
                f"{figure.total:,}",
                style="bold" if result.headline == (section, name) else "",
            )
        console.print(table)
        console.print()
    if result.partial:
        console.print(f"[bold]{escape(title)} is PARTIAL[/bold], so its figures do not compare with published ones:")
        for line in result.partial:
            console.print(f"  {line}", markup=False)
    for line in result.notes:
        console.print(f"Note: {line}", markup=False, soft_wrap=True)
    if result.partial or result.notes:
        console.print()


def print_overview(
    console: Console,
    name: str,
    titles: Mapping[str, str],
    results: Mapping[str, Result],
    mean: tuple[float, float, float] | None,
    absent: Sequence[str],
) -> None:
    """Prints the headline of every benchmark and their mean.

    Args:
        name: of the model.
        titles: benchmark -> its title, in the order of the table.
        mean: that of all headlines, with its interval; None if one is missing or partial.
        absent: benchmarks that were asked for and not found.
    """
    table = _table(f"{name}: headlines")
    table.add_column("benchmark")
    for column in ("%", "95 % interval", "ties", "of"):
        table.add_column(column, justify="right")
    table.add_column("")
    for key, title in titles.items():
        result = results.get(key)
        if result is None or result.headline is None:
            if result is not None or key in absent:
                table.add_row(title, "", "", "", "", "not in the data" if result is None else "no headline figure")
            continue
        figure = result.figure(result.headline)
        ties = "" if figure.ties is None else f"{figure.ties:,}"
        interval = f"{figure.low:.1f} to {figure.high:.1f}"
        table.add_row(
            title, f"{figure.value:.2f}", interval, ties, f"{figure.total:,}", "PARTIAL" if result.partial else ""
        )
    if mean is not None:
        value, low, high = mean
        table.add_row("Mean of seven", f"{value:.2f}", f"{low:.1f} to {high:.1f}", "", "", "", style="bold")
    else:
        table.add_row("Mean of seven", "", "", "", "", "needs all seven, whole")
    console.print(table)
    console.print()


def print_differences(
    console: Console,
    title: str,
    compared: Mapping[str, "Compared"],
    results: Mapping[str, Result],
    mean: Difference | None = None,
) -> None:
    """Prints the differences of the headline section of every set, those whose interval excludes 0 in bold, and over how
    much of it they are where one of the models could not read all. `mean` is the difference of the means of seven."""
    table = _table(title)
    for column in ("set", "figure"):
        table.add_column(column)
    for column in ("points", "paired 95 % interval"):
        table.add_column(column, justify="right")

    def add(name: str, figure: str, d: Difference) -> None:
        style = "bold" if d.low > 0 or d.high < 0 else ""
        table.add_row(name, escape(figure), f"{d.value:+.2f}", f"{d.low:+.2f} to {d.high:+.2f}", style=style)

    for name, one in compared.items():
        headline, sections = results[name].headline, one.differences
        for figure, d in sections.get(headline[0] if headline else next(iter(sections), ""), {}).items():
            add(name, figure, d)
    if mean is not None:
        add("all seven", "Mean of seven", mean)
    console.print(table)
    for name, one in compared.items():
        if one.comparisons < one.of:
            console.print(f"{name}: {over(one.comparisons, one.of)}", markup=False, highlight=False, soft_wrap=True)
    console.print()


def over(comparisons: int, of: int) -> str:
    """What differences over a part of a set say of it."""
    return f"over the {comparisons:,} of {of:,} comparisons that both models could read"


def print_curve(console: Console, curve: Curve) -> None:
    """Prints a best-of-N curve with the oracle's and the random one."""
    table = _table(f"Best of N over {curve.comparisons:,} comparisons")
    for column in ("N", "reward %", "95 % interval", "oracle %", "random %", "having N"):
        table.add_column(column, justify="right")
    for i, n in enumerate(curve.n):
        table.add_row(
            str(n),
            f"{curve.reward[i]:.2f}",
            f"{curve.low[i]:.1f} to {curve.high[i]:.1f}",
            f"{curve.oracle[i]:.2f}",
            f"{curve.random[i]:.2f}",
            f"{curve.offering[i]:,}",
        )
    console.print(table)
    console.print()


def print_facts(console: Console, title: str, facts: Mapping[str, Any]) -> None:
    """Prints names and values, one a line, nested ones as `outer.inner`; empty ones are left out."""
    console.print(f"[bold]{title}[/bold]")
    for name, value in _flat(facts):
        console.print(f"  {name}: {value}", markup=False, highlight=False, soft_wrap=True)
    console.print()


def _table(title: str) -> Table:
    return Table(title=escape(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            out += _flat(value, f"{prefix}{name}.")
        elif value is not None and value != "":
            out.append((prefix + name, value))
    return out
