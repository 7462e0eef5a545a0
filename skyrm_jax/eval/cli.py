"""The eval command: load every set, score it, write rewards and figures, print the tables."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from skyrm_jax.comparison import Comparison
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import read_comparisons
from skyrm_jax.errors import UserError
from skyrm_jax.eval import benchmarks, heldout, rewards
from skyrm_jax.eval.figures import Result
from skyrm_jax.eval.manifest import describe, manifest
from skyrm_jax.report.files import whole
from skyrm_jax.report.plots import best_of_n_plot
from skyrm_jax.report.tables import print_curve, print_facts, print_result

Sets = dict[str, list[Comparison]]


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    p = argparse.ArgumentParser(
        prog="skyrm eval",
        description="Score a reward model on benchmarks and on held-out comparisons.",
        epilog="Writes rewards.parquet, results.json and best_of_n.png to --out.",
    )
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="our checkpoint, a Hugging Face directory or a Hub id")
    source.add_argument(
        "--from-rewards",
        type=Path,
        metavar="FILE",
        help="use rewards that exist: rewards.parquet of an earlier run, or jsonl with id and rewards",
    )
    p.add_argument(
        "--benchmarks",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"all, or: {', '.join(benchmarks.BENCHMARKS)}",
    )
    p.add_argument(
        "--data",
        type=Path,
        help="folder with the benchmarks' published files (a folder for each, or just one)",
    )
    p.add_argument(
        "--held-out",
        nargs="+",
        default=[],
        metavar="FILE",
        help="preference comparisons to measure accuracy on",
    )
    p.add_argument("--form", default="auto", help="shape of the records in --held-out")
    p.add_argument("--out", type=Path, required=True, help="folder for the results")
    p.add_argument(
        "--max-tokens", type=int, default=16_384, help="longest conversation, in tokens (default 16384)"
    )
    p.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the model's matrices"
    )
    return p


def main(arguments: list[str] | None = None) -> None:
    """Runs the command.

    Raises UserError for anything the user can mend, before the model is loaded where possible.
    """
    args = parser().parse_args(arguments)
    names = benchmarks.select(args.benchmarks)
    if not names and not args.held_out:
        raise UserError("nothing to score: give --benchmarks with --data, or --held-out")
    if names and args.data is None:
        raise UserError("--benchmarks needs --data, the folder with the published files")
    sets: Sets = {name: benchmarks.load(name, args.data) for name in names}
    sources = {name: str(args.data) for name in names}
    args.out.mkdir(parents=True, exist_ok=True)
    if args.held_out:
        sets[rewards.HELD_OUT] = read_held_out(args.held_out, args.form, args.out)
        sources[rewards.HELD_OUT] = ", ".join(args.held_out)

    if args.from_rewards:
        file = rewards.RewardFile(args.from_rewards)
        scored = {name: file.of(name, comparisons) for name, comparisons in sets.items()}
        origin: dict[str, Any] = {"file": str(args.from_rewards)}
    else:
        scored, origin = score_all(sets, args.checkpoint, args.max_tokens, args.dtype)
    rewards.write(args.out / "rewards.parquet", {name: (sets[name], scored[name]) for name in sets})
    described = {name: describe(comparisons, sources[name]) for name, comparisons in sets.items()}
    report(args.out, sets, scored, manifest(origin, described))


def read_held_out(paths: Sequence[str], form: str, out: Path) -> list[Comparison]:
    """The comparisons of the files; bad records go to held-out.quarantine.jsonl in `out`.

    Raises UserError if no comparison is left.
    """
    quarantine = Quarantine(out / "held-out.quarantine.jsonl")
    comparisons = list(read_comparisons(paths, form=form, training=False, quarantine=quarantine))
    if not comparisons:
        raise UserError(f"--held-out {', '.join(paths)}: no comparison in it")
    return comparisons


def score_all(
    sets: Sets, checkpoint: str, max_tokens: int, dtype: str
) -> tuple[dict[str, list[np.ndarray]], dict[str, Any]]:
    """The rewards of every set, and what the scorer says about itself and about each set."""
    from skyrm_jax.scorer import Scorer  # imports JAX, which --from-rewards does not need

    scorer = Scorer.load(checkpoint, max_tokens=max_tokens, dtype=dtype)
    scored, counts = {}, {}
    for name, comparisons in sets.items():
        scored[name] = scorer.score(comparisons)
        counts[name] = dict(scorer.counts)
    return scored, {**scorer.manifest, "counts": counts}


def report(out: Path, sets: Sets, scored: dict[str, list[np.ndarray]], facts: dict[str, Any]) -> None:
    """Computes and prints all figures; writes results.json and, for held-out sets, the best-of-N plot."""
    console = Console()
    results: dict[str, Any] = {}
    for name, comparisons in sets.items():
        if name == rewards.HELD_OUT:
            results[name] = held_out(console, out, comparisons, scored[name])
        else:
            benchmark = benchmarks.BENCHMARKS[name]
            result = benchmark.score(comparisons, scored[name])
            print_result(console, benchmark.title, result)
            results[name] = result.to_dict()
    print_facts(console, "Rewards from", facts["rewards"])
    with whole(out / "results.json") as temporary:
        temporary.write_text(json.dumps({"manifest": facts, "results": results}, indent=2) + "\n")
    console.print(f"results in {out}", markup=False, highlight=False, soft_wrap=True)


def held_out(
    console: Console, out: Path, comparisons: Sequence[Comparison], values: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Accuracy and, where preferences split right from wrong, the best-of-N curve of held-out comparisons."""
    result: Result = heldout.score(comparisons, values)
    print_result(console, "Held out", result)
    curve = heldout.best_of_n(comparisons, values)
    if curve is not None:
        print_curve(console, curve)
        best_of_n_plot(curve, out / "best_of_n.png")
    return {**result.to_dict(), "best_of_n": asdict(curve) if curve else None}
