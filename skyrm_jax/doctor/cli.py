"""The `doctor` command: examine, print, and say by the exit status whether all is well."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skyrm_jax.doctor.checks import admit, examine, unopened
from skyrm_jax.doctor.findings import Finding
from skyrm_jax.doctor.stores import examine_store, is_store
from skyrm_jax.errors import UserError
from skyrm_jax.report.files import whole

if TYPE_CHECKING:
    from skyrm_jax.doctor.against import Pair

STYLES = {"well": "green", "note": "yellow", "ill": "bold red"}


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    p = argparse.ArgumentParser(
        prog="skyrm doctor",
        description="Is this checkpoint read the same by this package, transformers 4 and transformers 5? Is this store whole?",
        epilog="Exit status: 0 if nothing is ill, 1 otherwise. Notes are what other programs may handle differently.",
    )
    p.add_argument("checkpoint", help="our checkpoint, a Hugging Face folder or a Hub id; or a prepared store")
    p.add_argument("--against", choices=["hf"], help="compare rewards with transformers (needs torch)")
    p.add_argument("--weights", action="store_true", help="read every tensor and look for NaN and infinities")
    p.add_argument("--json", type=Path, metavar="FILE", help="the findings as JSON; - for standard output")
    return p


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; leaves with status 1 if anything is ill."""
    args = parser().parse_args(arguments)
    pairs: list[Pair] = []
    if is_store(args.checkpoint):
        findings = list(examine_store(args.checkpoint))
    else:
        findings, pairs = examine_checkpoint(args.checkpoint, args.weights, args.against is not None)
    record = {
        "checkpoint": args.checkpoint,
        "well": all(finding.status != "ill" for finding in findings),
        "findings": [finding.to_dict() for finding in findings],
        "rewards": [{**asdict(pair), "bf16_steps": pair.steps, "well": pair.is_well} for pair in pairs],
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    if str(args.json) == "-":
        sys.stdout.write(text)
    else:
        show(Console(), findings)
        if pairs:
            show_rewards(Console(), pairs)
        if args.json:
            with whole(args.json) as temporary:
                temporary.write_text(text, encoding="utf-8")
    if not record["well"]:
        sys.exit(1)


def examine_checkpoint(source: str, all_weights: bool, against_hf: bool) -> "tuple[list[Finding], list[Pair]]":
    """What is found of a checkpoint, and its rewards here and in transformers if they are asked for."""
    try:
        patient = admit(source)
    except UserError as error:
        return unopened(source, error), []
    findings = list(examine(patient, all_weights))
    if not against_hf:
        return findings, []
    from skyrm_jax.doctor import against

    try:
        pairs = against.compare(patient)
    except UserError as error:
        return [*findings, Finding("transformers", "ill", "rewards cannot be compared", str(error))], []
    return findings + against.findings(pairs), pairs


def show(console: Console, findings: Sequence[Finding]) -> None:
    """The findings as a table, remedies below their values."""
    table = Table(box=SIMPLE_HEAD)
    for column in ("", "what", "found"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        value = Text(finding.value)
        if finding.remedy:
            value.append(f"\n-> {finding.remedy}", STYLES[finding.status])
        table.add_row(Text(finding.status, STYLES[finding.status]), Text(finding.name), value)
    console.print(table)
    ill = sum(finding.status == "ill" for finding in findings)
    console.print(
        "[green]All is well.[/green]" if not ill else f"[bold red]{ill} of {len(findings)} are ill.[/bold red]"
    )


def show_rewards(console: Console, pairs: Sequence["Pair"]) -> None:
    """Rewards of both runtimes side by side."""
    table = Table(title="Rewards", box=SIMPLE_HEAD)
    table.add_column("dtype")
    table.add_column("response", max_width=40, no_wrap=True)
    for column in ("skyrm_jax", "transformers", "difference", "bf16 steps"):
        table.add_column(column, justify="right")
    for pair in pairs:
        table.add_row(
            pair.dtype,
            Text(pair.response),
            f"{pair.ours:.5f}",
            f"{pair.theirs:.5f}",
            f"{abs(pair.ours - pair.theirs):.2g}",
            f"{pair.steps:.1f}",
            style="" if pair.is_well else STYLES["ill"],
        )
    console.print(table)
