#!/usr/bin/env python
"""Does curation work? Noisy pairs whose truth is known, curated by the real pipeline, and models trained on the results.

    python tools/experiment_curation.py --json FILE [--seeds 0 1 2] [--pairs N] [--arms NAME ...] [--folder DIR]
    python tools/experiment_curation.py --world alpaca_eval --judgements DIR --base runs/smollm2 --seeds 0 --json FILE

For each seed 30 % of the labels are turned round, annotators answer over real HTTP, and simulated people verify 2 % of the
pairs, 20 % of the few real ones (see `curation_world`). Reward models are trained on the raw, the filtered, the filtered and
corrected, and the truly labelled pairs, equally long, and tested on other pairs with true labels. The worlds:

synthetic      comparisons whose truth an oracle knows; half of the wrong labels come from a lure that models fall for. The base
               that all models start from is trained first, on true comparisons of other seeds, as a language model has read before
alpaca_eval    GPT-4's judgements of short real answers, taken for the truth; SmolLM2-135M is the base. Takes hours on two cores

Other arms, for comparison: `no-humans` (no gold set and no gold model), `random` (iterations draw pairs at random), each filter
alone: `gold`, `best`, `annotators`, and `curve`: accuracy against the number of pairs, raw and corrected. They begin
with what they have in common with the main arms. A run that was stopped goes on where it was.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "4294967296")

import curation_alpaca
import curation_synthetic
from curation_world import Beliefs, Setting, answer, is_right, language_models, noisy, people, texts, write
from rich.console import Console

from skyrm_jax.comparison import Comparison
from skyrm_jax.curate import passes, training
from skyrm_jax.curate.annotators import Annotator
from skyrm_jax.curate.attributes import AttributeOptions
from skyrm_jax.curate.config import CurateConfig, Stage1, Stage2
from skyrm_jax.curate.decisions import Rule
from skyrm_jax.curate.humans.queue import HumanQueue
from skyrm_jax.curate.judge import JudgeOptions
from skyrm_jax.curate.measure import final_pairs
from skyrm_jax.curate.pair import Pair
from skyrm_jax.curate.preprocess import Preprocess
from skyrm_jax.curate.run import run as curate
from skyrm_jax.curate.workspace import Workspace
from skyrm_jax.eval.statistics import bootstrap, ratio

MAIN = ("original", "filtered", "corrected", "clean")
OTHERS = ("no-humans", "random", "gold", "best", "annotators", "curve")
CURVE = (0.02, 0.05, 0.1, 0.25, 0.6)
"""Shares of the pool that points of the curve are trained on."""
PAIRS = {"synthetic": 8000, "alpaca_eval": 800}
FIGURES = ("gap", "gap_closed", "keep_precision", "keep_recall", "flip_precision", "flip_recall")


def main(argv: list[str] | None = None) -> None:
    args = options(argv)
    console = Console()
    began = time.monotonic()
    folder = Path(args.folder)
    pairs = args.pairs or PAIRS[args.world]
    if args.world == "synthetic":
        setting = curation_synthetic.setting(folder, pairs, console)
    else:
        setting = curation_alpaca.setting(args.judgements, args.base, pairs)
    write(folder / "test.jsonl", setting.test)
    base_seconds = time.monotonic() - began
    seeds = [one_seed(folder, seed, setting, args.iterations, args.arms, console) for seed in args.seeds]
    report = {
        "world": args.world,
        "test_pairs": len(setting.test),
        "base_seconds": base_seconds,
        "main_seconds": sum(seed["seconds"] for seed in seeds),
        **{name: float(np.mean([seed[name] for seed in seeds])) for name in FIGURES},
        "spread": {name: [min(of), max(of)] for name in FIGURES for of in [[seed[name] for seed in seeds]]},
        "seeds": seeds,
    }
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    console.print({name: value for name, value in report.items() if name != "seeds"})


def options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=PAIRS, default="synthetic")
    parser.add_argument("--judgements", type=Path, help="for alpaca_eval: a folder of *__annotations.json")
    parser.add_argument("--base", default="runs/smollm2", help="for alpaca_eval: the language model to start from")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--folder", default="runs/curation_experiment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, help=f"at most; by default {PAIRS}")
    parser.add_argument("--iterations", type=int, default=2, help="of stage 1, after the first")
    parser.add_argument("--arms", nargs="*", choices=OTHERS, default=[], help="arms besides the main ones")
    args = parser.parse_args(argv)
    if args.world == "alpaca_eval" and args.judgements is None:
        parser.error("--world alpaca_eval needs --judgements, the folder of alpaca_eval's judgements")
    return args


def one_seed(
    folder: Path, seed: int, setting: Setting, iterations: int, arms: list[str], console: Console
) -> dict[str, Any]:
    """The figures of a seed."""
    began = time.monotonic()
    console.rule(f"seed {seed}")
    home = folder / f"seed-{seed}"
    pairs = setting.pairs(seed)
    write(home / "pairs.jsonl", noisy(setting.world, pairs, seed, setting.lured))
    beliefs, ask = Beliefs.of(setting.world, pairs), people(setting.world, seed)
    with language_models(lambda request, number: answer(beliefs, request, number)) as url:
        config = configuration(home / "curation", home, url, seed, setting, len(pairs), iterations)
        work = curate(config, console, ask)
        curated = time.monotonic() - began
        sets = final_pairs(work)
        right = {pair.id: is_right(setting.world, pair.comparison()) for pair in sets["original"]}
        sets["clean"] = [pair if right[pair.id] else pair.flipped() for pair in sets["original"]]

        def marks(name: str, pairs: list[Pair], steps: int = setting.steps) -> np.ndarray:
            return trained(config, pairs, steps, home / "arms" / name, setting.test, console)

        correct = {name: marks(name, sets[name]) for name in MAIN}
        told = summary(seed, correct, sets, quality(work, right), setting)
        told |= {"curation_seconds": curated, "seconds": time.monotonic() - began, "others": {}}
        for arm in arms:
            if arm == "curve":
                told["curve"] = curve(sets, marks)
                continue
            other = curate(of_arm(arm, config, home, work), console, ask)
            corrected = final_pairs(other)["corrected"]
            of = marks(arm, corrected)
            told["others"][arm] = {
                "accuracy": 100 * float(of.mean()),
                "pairs": len(corrected),
                "less_corrected": difference(of, correct["corrected"], setting.test),
                **quality(other, right),
            }
    return told


def of_arm(arm: str, config: CurateConfig, home: Path, work: Workspace) -> CurateConfig:
    """The configuration of another arm, in a folder of its own; what does not differ from the main one is copied there."""
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
            shutil.rmtree(half := out / f"{name}.half", ignore_errors=True)
            shutil.copytree(work.root / name, half)
            half.rename(out / name)
    return replace(config, out=str(out), **changes)


def later_pairs(work: Workspace) -> int:
    """Pairs that an iteration after the first has found, on average: what random draws may have too."""
    counts = [len(work.iteration(n).selected()) for n in range(1, work.config.stage1.iterations + 1)]
    return max(1, round(float(np.mean(counts))))


def curve(sets: dict[str, list[Pair]], marks: Any) -> list[dict[str, Any]]:
    """Accuracy against the number of pairs, raw and corrected: nested random parts of each."""
    points = []
    for name in ("original", "corrected"):
        order = np.random.default_rng(0).permutation(len(sets[name]))
        for share in CURVE:
            pairs = [sets[name][i] for i in order[: round(share * len(sets["original"]))]]
            accuracy = 100 * float(marks(f"curve/{name}/{share:g}", pairs).mean())
            points.append({"set": name, "pairs": len(pairs), "accuracy": accuracy})
    return points


def configuration(
    out: Path, home: Path, url: str, seed: int, setting: Setting, pairs: int, iterations: int
) -> CurateConfig:
    """The curation of a seed."""
    return CurateConfig(
        out=str(out),
        reward_model=setting.reward_model,
        preprocess=Preprocess([str(home / "pairs.jsonl")], held_out=[str(home.parent / "test.jsonl")]),
        annotators=[
            Annotator(name, name, url, concurrency=8, price_in=0.1, price_out=0.4) for name in ("model-a", "model-b")
        ],
        attributes=AttributeOptions(annotators=["model-a"]),
        judge=JudgeOptions(votes=2, examples=2),
        humans=HumanQueue(budget=int(pairs * setting.human_share) // (iterations + 1), seed=seed),
        embedder=setting.embedder,
        stage1=Stage1(iterations=iterations, first=round(setting.first * pairs), pairs=round(setting.later * pairs)),
        stage2=Stage2(Rule(), gold_model=setting.gold_model),
        seed=seed,
    )


def trained(
    config: CurateConfig, pairs: list[Pair], steps: int, out: Path, test: Sequence[Comparison], console: Console
) -> np.ndarray:
    """Trains on pairs, so many steps whatever their number; which test pairs the model gets right."""
    if not (out / "right.npy").is_file():
        model = replace(config.reward_model.of("arms", {"run.steps": steps, "run.epochs": 100_000}), checkpoints=1)
        last = training.train(model, pairs, [], out, console)
        rewards = training.load(config.reward_model, last.checkpoint).score(test)
        preferences = [pair.preferences[0] for pair in test]
        right = [of[p.winner] > of[p.loser] for of, p in zip(rewards, preferences, strict=True)]
        np.save(out / "right.npy", np.array(right))
    marks: np.ndarray = np.load(out / "right.npy")
    return marks


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


def difference(one: np.ndarray, other: np.ndarray, test: Sequence[Comparison]) -> dict[str, float]:
    """In points, with a paired interval by bootstrap over test prompts."""
    prompts = {texts(pair)[0]: n for n, pair in enumerate(test)}
    of_prompt = np.unique([prompts[texts(pair)[0]] for pair in test], return_inverse=True)[1]
    delta = np.bincount(of_prompt, 100 * (one.astype(float) - other))[:, None]
    low, high = bootstrap(lambda counts: ratio(counts, delta, np.bincount(of_prompt)[:, None]), len(delta))
    return {"difference": 100 * float(one.mean() - other.mean()), "low": float(low[0]), "high": float(high[0])}


def summary(
    seed: int,
    correct: dict[str, np.ndarray],
    sets: dict[str, list[Pair]],
    decided: dict[str, float],
    setting: Setting,
) -> dict[str, Any]:
    """The figures of a seed's main arms."""
    lured = np.array([setting.world.is_lured(*texts(pair)[1:]) for pair in setting.test])
    accuracy = {name: 100 * float(of.mean()) for name, of in correct.items()}
    gap = accuracy["clean"] - accuracy["original"]

    def less(one: str, other: str) -> dict[str, float]:
        return difference(correct[one], correct[other], setting.test)

    return {
        "seed": seed,
        "accuracy": accuracy,
        "accuracy_lured": {name: 100 * float(of[lured].mean()) for name, of in correct.items() if lured.any()},
        "pairs": {name: len(of) for name, of in sets.items()},
        "gap": gap,
        "gap_closed": 100 * (accuracy["corrected"] - accuracy["original"]) / gap if gap else float("nan"),
        "corrected_less_original": less("corrected", "original"),
        **{f"{one}_less_{other}": less(one, other) for other, one in pairwise(MAIN)},
        **decided,
    }


if __name__ == "__main__":
    main()
