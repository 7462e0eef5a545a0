"""Terminal tables of figures, with intervals, counts and ties beside every number."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from skyrm_jax.eval.figures import Result
from skyrm_jax.eval.heldout import Curve


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
                "" if figure.correct is None else f"{figure.correct:,}",
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
