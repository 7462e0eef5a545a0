"""The eval command: load every set, score it, write rewards and figures, print the tables."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from skyrm_jax.comparison import Comparison
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import Located, read_located
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.eval import benchmarks, heldout, rewards, scoring
from skyrm_jax.eval.manifest import describe, manifest
from skyrm_jax.eval.stored import HeldOut
from skyrm_jax.report.files import whole
from skyrm_jax.report.plots import best_of_n_plot
from skyrm_jax.report.tables import print_curve, print_facts, print_result

Sets = dict[str, list[Comparison]]
Scored = dict[str, list[np.ndarray]]


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    p = argparse.ArgumentParser(
        prog="skyrm eval",
        description="Score a reward model on benchmarks and on held-out comparisons.",
        epilog="--out gets rewards.parquet, results.json and, for held-out comparisons, best_of_n.png.",
    )
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="our checkpoint, a Hugging Face folder or a Hub id")
    source.add_argument(
        "--from-rewards",
        type=Path,
        metavar="FILE",
        help="rewards that exist: rewards.parquet of an earlier run, or jsonl with id and rewards",
    )
    names = ", ".join(benchmarks.BENCHMARKS)
    p.add_argument("--benchmarks", nargs="+", default=[], metavar="NAME", help=f"all, or any of: {names}")
    p.add_argument("--data", type=Path, help="the benchmarks' published files: a folder for each, or just one")
    p.add_argument(
        "--held-out",
        nargs="+",
        default=[],
        metavar="PATH",
        help="files of comparisons with preferences, or the store of a training run",
    )
    p.add_argument("--out", type=Path, required=True, help="folder for the results")
    scoring.add_options(p)
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
    scoring.require_writable(args.out)
    sets: Sets = {name: benchmarks.load(name, args.data) for name in names}
    facts = {name: describe(comparisons, str(args.data)) for name, comparisons in sets.items()}
    stored = read_store(args.held_out)
    quarantine = Quarantine(args.out / "held-out.quarantine.jsonl", args.max_bad_share)
    records: list[Located] = []
    if stored:
        sets[rewards.HELD_OUT] = stored.comparisons
        facts[rewards.HELD_OUT] = {"store": args.held_out[0], "fingerprint": stored.store.fingerprint}
    elif args.held_out:
        records = list(read_located(args.held_out, args.form, training=False, quarantine=quarantine))
        sets[rewards.HELD_OUT] = [record.comparison for record in records]
        facts[rewards.HELD_OUT] = {}

    console = Console()
    if args.from_rewards:
        file = rewards.RewardFile(args.from_rewards)
        scored = {name: file.of(name, comparisons) for name, comparisons in sets.items()}
        origin: dict[str, Any] = {"file": str(args.from_rewards)}
        if records:
            put_aside(records, scored[rewards.HELD_OUT], quarantine)
    else:
        scorer = scoring.load_scorer(args, args.checkpoint)
        scored = {}
        for name, comparisons in sets.items():
            if name == rewards.HELD_OUT and stored:
                work = partial(stored.score, scorer)
                scored[name], facts[name]["counts"] = scoring.counted(scorer, len(comparisons), console, name, work)
            elif name == rewards.HELD_OUT:
                scored[name], facts[name]["counts"] = scoring.score_records(scorer, records, quarantine, console, name)
            else:
                scored[name], facts[name]["counts"] = scoring.score(scorer, comparisons, console, name)
        origin = scoring.origin(scorer)
        rewards.write(args.out / "rewards.parquet", {name: (sets[name], scored[name]) for name in sets})
    if records:
        usable = [i for i, reward in enumerate(scored[rewards.HELD_OUT]) if reward.size]
        scored[rewards.HELD_OUT] = [scored[rewards.HELD_OUT][i] for i in usable]
        sets[rewards.HELD_OUT] = [records[i].comparison for i in usable]
        read = describe(sets[rewards.HELD_OUT], " ".join(args.held_out))
        facts[rewards.HELD_OUT] |= {**read, "bad_records": quarantine.bad}
    report(console, args.out, sets, scored, manifest(origin, facts))


def put_aside(records: Sequence[Located], values: Sequence[np.ndarray], quarantine: Quarantine) -> None:
    """Quarantines the records that the model could not read when the rewards were made. Raises UserError if too many."""
    for record, reward in zip(records, values, strict=True):
        if not reward.size:
            error = RecordError("record", "was refused by the model", "see the quarantine of the run that scored it")
            quarantine.add(record.file, record.line, error, record.raw)
    quarantine.check()


def read_store(paths: Sequence[str]) -> HeldOut | None:
    """The held-out comparisons of a store, if that is what --held-out names.

    Raises UserError for a store beside other paths, which have text and a store has not.
    """
    if not any(Path(path).is_dir() for path in paths):
        return None
    if len(paths) > 1:
        raise UserError("--held-out takes one store, or any number of files: score them one after the other")
    return HeldOut.read(paths[0])


def report(console: Console, out: Path, sets: Sets, scored: Scored, facts: Mapping[str, Mapping[str, Any]]) -> None:
    """Computes and prints all figures; writes results.json and, for held-out sets, the best-of-N plot."""
    results: dict[str, Any] = {}
    for name, comparisons in sets.items():
        if name == rewards.HELD_OUT:
            results[name] = held_out(console, out, comparisons, scored[name])
        else:
            benchmark = benchmarks.BENCHMARKS[name]
            result = benchmark.score(comparisons, scored[name])
            print_result(console, benchmark.title, result)
            results[name] = result.to_dict()
    print_facts(console, "Made from (all of it in results.json)", essentials(facts))
    with whole(out / "results.json") as temporary:
        temporary.write_text(json.dumps({"manifest": facts, "results": results}, indent=2) + "\n")
    console.print(f"results in {out}", markup=False, highlight=False, soft_wrap=True)


def essentials(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What of the manifest belongs beside the figures on a terminal: what most easily changes them."""
    names = ("file", "checkpoint", "step", "compute_dtype", "max_tokens", "platform", "template_hash")
    shown: dict[str, Any] = {name: facts["rewards"].get(name) for name in names}
    for name, described in facts["sets"].items():
        counts = described.get("counts", {})
        shown[name] = {key: counts.get(key) for key in ("comparisons", "responses", "truncated")}
        shown[name]["bad_records"] = described.get("bad_records")
    return shown


def held_out(
    console: Console, out: Path, comparisons: Sequence[Comparison], values: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Accuracy and, where preferences split right from wrong, the best-of-N curve of held-out comparisons."""
    result = heldout.score(comparisons, values)
    print_result(console, "Held out", result)
    curve = heldout.best_of_n(comparisons, values)
    if curve is not None:
        print_curve(console, curve)
        best_of_n_plot(curve, out / "best_of_n.png")
    return {**result.to_dict(), "best_of_n": asdict(curve) if curve else None}
