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
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

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
from skyrm_jax.curate.pair import Pair
from skyrm_jax.curate.preprocess import Preprocess
from skyrm_jax.curate.run import run as curate
from skyrm_jax.curate.training import RewardModel
from skyrm_jax.curate.workspace import Workspace
from skyrm_jax.data import bpe
from skyrm_jax.data.synthetic import generate, truth
from skyrm_jax.eval.statistics import LEVEL, REPLICATES
from skyrm_jax.train.loop import run as train

MAIN = ("raw", "filtered", "corrected", "clean")
OTHERS = ("no-humans", "random", "gold", "best", "annotators")
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
    beliefs = Beliefs.of(clean)
    category = {pair.prompt[-1].content: pair.category for pair in clean}
    with language_models(beliefs, category) as url:
        config = configuration(home, url, seed, size, folder)
        work = curate(config, console, people(seed))
        print(f"curated after {time.monotonic() - began:.0f} s", flush=True)
        pool = [pair for part in passes.parts(work.pool) for chunk in passes.read_pairs(part) for pair in chunk]
        right = {pair.id: is_right(pair) for pair in pool}
        sets = {
            "raw": pool,
            "filtered": final(work, "filtered"),
            "corrected": final(work, "corrected"),
            "clean": [pair if right[pair.id] else pair.flipped() for pair in pool],
        }
        quality = decisions_quality(work, right)
    correct = {
        name: trained(config.reward_model, pairs, home / "arms" / name, test, console) for name, pairs in sets.items()
    }
    return summary(seed, correct, sets, quality, test) | {"seconds": time.monotonic() - began}


def configuration(home: Path, url: str, seed: int, size: Size, folder: Path) -> CurateConfig:
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
        out=str(home / "curation"),
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


def final(work: Workspace, name: str) -> list[Pair]:
    """The pairs that a curation ended with."""
    return [pair for part in passes.parts(work.final / name) for chunk in passes.read_pairs(part) for pair in chunk]


def trained(model: RewardModel, pairs: list[Pair], out: Path, test: list[Comparison], console: Console) -> np.ndarray:
    """Trains on pairs; which test pairs the model gets right."""
    last = training.train(replace(model, checkpoints=1), pairs, [], out, console)
    scorer = training.load(model, last.checkpoint)
    rewards = scorer.score(test)
    return np.array(
        [of[c.preferences[0].winner] > of[c.preferences[0].loser] for of, c in zip(rewards, test, strict=True)]
    )


def decisions_quality(work: Workspace, right: dict[str, bool]) -> dict[str, float]:
    """Precision and recall of keeping and turning round against the truth, people's own pairs left out."""
    import pyarrow.parquet as pq

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
        "keep_precision": counts["kept_right"] / max(1, counts["kept_right"] + counts["kept_wrong"]),
        "keep_recall": counts["kept_right"] / max(1, counts["right"]),
        "flip_precision": counts["flipped_right"] / max(1, counts["flipped_right"] + counts["flipped_wrong"]),
        "flip_recall": counts["flipped_right"] / max(1, counts["wrong"]),
        **{name: float(value) for name, value in counts.items()},
    }


def summary(
    seed: int,
    correct: dict[str, np.ndarray],
    sets: dict[str, list[Pair]],
    quality: dict[str, float],
    test: list[Comparison],
) -> dict[str, Any]:
    """The figures of a seed, with paired bootstrap intervals over test pairs."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(test), (REPLICATES, len(test)))
    accuracy = {name: float(of.mean()) for name, of in correct.items()}

    def difference(a: str, b: str) -> dict[str, float]:
        delta = correct[a].astype(float) - correct[b]
        low, high = np.quantile(delta[draws].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return {"difference": float(delta.mean()), "low": float(low), "high": float(high)}

    kinds = np.array([kind_of(pair) for pair in test])
    gap = accuracy["clean"] - accuracy["raw"]
    return {
        "seed": seed,
        "accuracy": accuracy,
        "accuracy_by_kind": {
            name: {kind: float(of[kinds == kind].mean()) for kind in sorted(set(kinds))} for name, of in correct.items()
        },
        "pairs": {name: len(of) for name, of in sets.items()},
        "gap": 100 * gap,
        "gap_closed": 100 * (accuracy["corrected"] - accuracy["raw"]) / gap,
        "corrected_over_raw": difference("corrected", "raw"),
        "filtered_over_raw": difference("filtered", "raw"),
        "corrected_over_filtered": difference("corrected", "filtered"),
        "clean_over_corrected": difference("clean", "corrected"),
        **{name: 100 * value if "precision" in name or "recall" in name else value for name, value in quality.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
