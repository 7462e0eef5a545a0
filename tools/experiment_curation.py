#!/usr/bin/env python
"""Does curation work? Noisy pairs whose truth is known, curated by the real pipeline, and models trained on the results.

    python tools/experiment_curation.py --json FILE [--seeds 0 1 2] [--pairs N] [--arms NAME ...] [--folder DIR]

For each seed: pairs with 30 % of the labels turned round (half at random, half by a lure that models fall for), annotators
behind a real HTTP server, simulated people who verify 2 % of the pairs (see `curation_world`). Reward models are trained on the
raw, the filtered, the filtered and corrected, and the truly labelled pairs, and tested on other pairs with true labels. The base
that all of them start from is trained first, on true comparisons of other seeds, as a language model has read before.

Other arms, for comparison: `no-humans` (no gold set and no gold model), `random` (iterations draw pairs at random), and each filter
alone: `gold`, `best`, `annotators`. They share the main arms' scores and votes where they can.
"""

import argparse
import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "4294967296")

from curation_world import Beliefs, clean_pairs, kind_of, language_models, noisy, people, write
from rich.console import Console

from skyrm_jax import checkpoint
from skyrm_jax.comparison import Comparison
from skyrm_jax.config import parse_train_config
from skyrm_jax.convert.streamed import write_checkpoint
from skyrm_jax.convert.weights import MemoryWeights
from skyrm_jax.curate import passes, training
from skyrm_jax.curate.annotators import Annotator
from skyrm_jax.curate.attributes import AttributeOptions
from skyrm_jax.curate.config import CurateConfig, EmbedderConfig, Stage1, Stage2
from skyrm_jax.curate.decisions import Rule
from skyrm_jax.curate.humans.queue import HumanQueue
from skyrm_jax.curate.judge import JudgeOptions
from skyrm_jax.curate.measure import final_pairs
from skyrm_jax.curate.pair import Pair
from skyrm_jax.curate.preprocess import Preprocess
from skyrm_jax.curate.run import run as curate
from skyrm_jax.curate.training import RewardModel
from skyrm_jax.curate.workspace import Workspace
from skyrm_jax.data import bpe
from skyrm_jax.data.synthetic import generate, truth
from skyrm_jax.eval.statistics import bootstrap, ratio
from skyrm_jax.train.loop import run as train

MAIN = ("original", "filtered", "corrected", "clean")
OTHERS = ("no-humans", "random", "gold", "best", "annotators", "curve")
CURVE = (0.02, 0.05, 0.1, 0.25, 0.6)
"""Shares of the pool that points of the curve are trained on."""
STEPS = 250
"""Of every arm's training."""
BASE_SEED, TEST_SEED = 10_000, 20_000
HUMAN_SHARE = 0.02
"""Of the pairs, what people verify at most."""


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    pairs: int
    test: int
    base_comparisons: int
    base_steps: int
    first: int
    later: int
    iterations: int
    epochs: int = 1


def main(argv: list[str] | None = None) -> None:
    args = options(argv)
    console = Console()
    began = time.monotonic()
    folder = Path(args.folder)
    size = Size(
        args.pairs, args.test, args.base_comparisons, args.base_steps, args.pairs // 8, args.pairs // 8, args.iterations
    )
    test = [pair for pair in clean_pairs(size.test, TEST_SEED)]
    write(folder / "test.jsonl", test)
    base(folder / "base", size, {pair.prompt for pair in test}, console)
    base_seconds = time.monotonic() - began
    results = [one_seed(folder, seed, size, args.arms, test, console) for seed in args.seeds]
    report = {"size": vars(size), "base_seconds": base_seconds, "seconds": time.monotonic() - began, "seeds": results}
    report |= {
        name: float(np.mean([result[name] for result in results]))
        for name in ("gap", "gap_closed", "keep_precision", "flip_precision")
    }
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    console.print({name: value for name, value in report.items() if name != "seeds"})


def options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Does curation work?")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--folder", default="runs/curation_experiment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, default=16_000)
    parser.add_argument("--test", type=int, default=3000)
    parser.add_argument("--base-comparisons", type=int, default=90_000)
    parser.add_argument("--base-steps", type=int, default=6000)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--arms", nargs="*", choices=OTHERS, default=[], help="arms besides the main ones")
    return parser.parse_args(argv)


def base(folder: Path, size: Size, held_out: set[Any], console: Console) -> None:
    """A small model that has learnt the tasks but not what is preferred: its head is zero."""
    if (folder / "checkpoints").is_dir():
        return
    shutil.rmtree(folder, ignore_errors=True)
    data = folder.parent / "base.jsonl"
    write(data, [one for one in generate(size.base_comparisons, BASE_SEED, 0.0, 0.35) if one.prompt not in held_out])
    bpe.main([str(data), "--out", str(folder.parent / "tokenizer")])
    trained = folder.parent / "base-training"
    shutil.rmtree(trained, ignore_errors=True)
    given = ["--config", "configs/quickstart.yaml", "--data.sources", json.dumps([str(data)]), "--data.held_out", "0"]
    given += ["--data.tokenizer", str(folder.parent / "tokenizer"), "--run.out", str(trained), "--run.epochs", "10"]
    given += ["--run.steps", str(size.base_steps), "--run.evaluate_every", "0", "--run.checkpoint_every", "0"]
    train(parse_train_config([*given, "--run.log_every", "100"]), console)
    model = checkpoint.load_model(trained)
    params = {name: value for name, value in model.params.items()}
    params["score"] = np.zeros_like(np.asarray(params["score"]))
    write_checkpoint(folder, MemoryWeights.of(model.architecture, params), model.tokenizer, {})


def one_seed(
    folder: Path, seed: int, size: Size, arms: list[str], test: list[Comparison], console: Console
) -> dict[str, Any]:
    """The figures of a seed."""
    began = time.monotonic()
    console.rule(f"seed {seed}")
    home = folder / f"seed-{seed}"
    clean = list(clean_pairs(size.pairs, seed))
    write(home / "pairs.jsonl", noisy(clean, seed))
    category = {pair.prompt[-1].content: pair.category for pair in clean}
    with language_models(Beliefs.of(clean), category) as url:
        config = configuration(home / "curation", home, url, seed, size, folder)
        work = curate(config, console, people(seed))
        curated = time.monotonic() - began
        sets = final_pairs(work)
        right = {pair.id: is_right(pair) for pair in sets["original"]}
        sets["clean"] = [pair if right[pair.id] else pair.flipped() for pair in sets["original"]]
        correct = {name: trained(config, sets[name], home / "arms" / name, test, console) for name in MAIN}
        told = summary(seed, correct, sets, quality(work, right), test)
        told |= {"curation_seconds": curated, "seconds": time.monotonic() - began}
        told["others"] = {}
        for arm in arms:
            if arm == "curve":
                told["curve"] = curve(config, sets, home / "curve", test, console)
                continue
            other = curate(of_arm(arm, config, home, work), console, people(seed))
            pairs = final_pairs(other)["corrected"]
            marks = trained(config, pairs, home / "arms" / arm, test, console)
            told["others"][arm] = {
                "accuracy": 100 * float(marks.mean()),
                "pairs": len(pairs),
                "less_corrected": difference(marks, correct["corrected"]),
                **quality(other, right),
            }
    return told


def of_arm(arm: str, config: CurateConfig, home: Path, work: Workspace) -> CurateConfig:
    """The configuration of another arm, in a folder of its own; what does not differ from the main one is linked there."""
    out = home / f"curation-{arm}"
    rule = config.stage2.rule
    changes: Any = {
        "no-humans": {"humans": None, "stage2": replace(config.stage2, rule=replace(rule, keep="best_or_annotators"))},
        "random": {"stage1": replace(config.stage1, retrieval="random", pairs=later_pairs(work))},
        "gold": {"stage2": replace(config.stage2, rule=replace(rule, keep="gold"))},
        "best": {"stage2": replace(config.stage2, rule=replace(rule, keep="best", band=0.0))},
        # A band this wide has annotators asked about every pair.
        "annotators": {"stage2": replace(config.stage2, rule=replace(rule, keep="annotators", band=0.499999))},
    }[arm]
    shared = ["pool", "preprocess", "calls"]
    if "stage2" in changes and arm != "no-humans":
        shared.append("iterations")
    for name in shared:
        if not (out / name).exists():
            shutil.copytree(work.root / name, out / name)
    return replace(config, out=str(out), **changes)


def later_pairs(work: Workspace) -> int:
    """Pairs that an iteration after the first has found, on average: what random draws may have too."""
    counts = [len(work.iteration(n).selected()) for n in range(1, work.config.stage1.iterations + 1)]
    return max(1, round(float(np.mean(counts))))


def curve(
    config: CurateConfig, sets: dict[str, list[Pair]], folder: Path, test: list[Comparison], console: Console
) -> list[dict[str, Any]]:
    """Accuracy against the number of pairs, raw and curated: nested random parts of each."""
    points = []
    for name in ("original", "corrected"):
        order = np.random.default_rng(0).permutation(len(sets[name]))
        for share in CURVE:
            pairs = [sets[name][i] for i in order[: round(share * len(sets["original"]))]]
            marks = trained(config, pairs, folder / name / f"{share:g}", test, console)
            points.append({"set": name, "pairs": len(pairs), "accuracy": 100 * float(marks.mean())})
    return points


def configuration(out: Path, home: Path, url: str, seed: int, size: Size, folder: Path) -> CurateConfig:
    """The curation of a seed."""
    model = RewardModel(
        "configs/curation_experiment.yaml",
        {
            "model.base": str(folder / "base"),
            "data.tokenizer": str(folder / "base" / "tokenizer"),
            "run.epochs": size.epochs,
        },
        checkpoints=2,
        dtype="float32",
    )
    batches = size.iterations + 1
    return CurateConfig(
        out=str(out),
        reward_model=model,
        preprocess=Preprocess([str(home / "pairs.jsonl")], held_out=[str(folder / "test.jsonl")]),
        annotators=[
            Annotator(name, name, url, concurrency=8, price_in=0.1, price_out=0.4) for name in ("model-a", "model-b")
        ],
        attributes=AttributeOptions(annotators=["model-a"]),
        judge=JudgeOptions(votes=2, examples=2),
        humans=HumanQueue(budget=int(size.pairs * HUMAN_SHARE) // batches, seed=seed),
        embedder=EmbedderConfig(dtype="float32", max_tokens=128),
        stage1=Stage1(iterations=size.iterations, first=size.first, pairs=size.later),
        stage2=Stage2(Rule(), gold_model={"run.epochs": 8, "optimizer.batch": 32}),
        seed=seed,
    )


def is_right(pair: Pair) -> bool:
    """Whether a pair's label is true."""
    return truth(pair.comparison())[0]


def trained(config: CurateConfig, pairs: list[Pair], out: Path, test: list[Comparison], console: Console) -> np.ndarray:
    """Trains on pairs, as many steps whatever their number; which test pairs the model gets right."""
    model = replace(config.reward_model.of("arms", {"run.steps": STEPS, "run.epochs": 100_000}), checkpoints=1)
    last = training.train(model, pairs, [], out, console)
    rewards = training.load(config.reward_model, last.checkpoint).score(test)
    preferences = [pair.preferences[0] for pair in test]
    return np.array([of[p.winner] > of[p.loser] for of, p in zip(rewards, preferences, strict=True)])


def quality(work: Workspace, right: dict[str, bool]) -> dict[str, float]:
    """Precision and recall of keeping and turning round against the truth, people's own pairs left out."""
    counts: dict[str, int] = dict.fromkeys(
        ("kept_right", "kept_wrong", "flipped_right", "flipped_wrong", "right", "wrong"), 0
    )
    for part in passes.parts(work.stage2 / "decisions"):
        for row in pq.read_table(part).to_pylist():
            if row["human"] is not None:
                continue
            is_true = right[row["id"]]
            counts["right" if is_true else "wrong"] += 1
            if row["decision"] == "kept":
                counts["kept_right" if is_true else "kept_wrong"] += 1
            elif row["decision"] == "flipped":
                counts["flipped_wrong" if is_true else "flipped_right"] += 1
    return {
        "keep_precision": 100 * counts["kept_right"] / max(1, counts["kept_right"] + counts["kept_wrong"]),
        "keep_recall": 100 * counts["kept_right"] / max(1, counts["right"]),
        "flip_precision": 100 * counts["flipped_right"] / max(1, counts["flipped_right"] + counts["flipped_wrong"]),
        "flip_recall": 100 * counts["flipped_right"] / max(1, counts["wrong"]),
        **counts,
    }


def difference(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """In points, with a paired interval by bootstrap over test pairs."""
    delta = 100 * (one.astype(float) - other)[:, None]
    low, high = bootstrap(lambda counts: ratio(counts, delta, np.ones_like(delta)), len(delta))
    return {"difference": float(delta.mean()), "low": float(low[0]), "high": float(high[0])}


def summary(
    seed: int,
    correct: dict[str, np.ndarray],
    sets: dict[str, list[Pair]],
    decided: dict[str, float],
    test: list[Comparison],
) -> dict[str, Any]:
    """The figures of a seed's main arms."""
    kinds = np.array([kind_of(pair) for pair in test])
    accuracy = {name: 100 * float(of.mean()) for name, of in correct.items()}
    gap = accuracy["clean"] - accuracy["original"]
    return {
        "seed": seed,
        "accuracy": accuracy,
        "accuracy_by_kind": {
            name: {kind: 100 * float(of[kinds == kind].mean()) for kind in sorted(set(kinds))}
            for name, of in correct.items()
        },
        "pairs": {name: len(of) for name, of in sets.items()},
        "gap": gap,
        "gap_closed": 100 * (accuracy["corrected"] - accuracy["original"]) / gap,
        "corrected_less_original": difference(correct["corrected"], correct["original"]),
        **{f"{one}_less_{other}": difference(correct[one], correct[other]) for other, one in pairwise(MAIN)},
        **decided,
    }


if __name__ == "__main__":
    main()
