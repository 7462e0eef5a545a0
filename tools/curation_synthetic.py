"""The synthetic comparisons as a world for `experiment_curation`, and the small model that all its reward models start from.

The lure: a wrong answer is flashy and the right one is not. Models fall for it, people do not.
"""

import json
import random
import shutil
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from curation_world import Setting, write
from rich.console import Console

from skyrm_jax import checkpoint
from skyrm_jax.comparison import Comparison
from skyrm_jax.config import parse_train_config
from skyrm_jax.convert.streamed import write_checkpoint
from skyrm_jax.convert.weights import MemoryWeights
from skyrm_jax.curate.config import EmbedderConfig
from skyrm_jax.curate.training import RewardModel
from skyrm_jax.data import bpe
from skyrm_jax.data.synthetic import FAMILIES, generate, oracle, truth
from skyrm_jax.train.loop import run as train

LURES = 0.45
"""Chance that a pair is one of a plain and a flashy answer."""
LURED = 0.15
BASE_SEED, TEST_SEED = 10_000, 20_000
BASE_COMPARISONS, BASE_STEPS, BASE_LURES = 90_000, 6000, 0.35
SUBJECTIVE = ("safety", "style")
TEST = 2000


class Synthetic:
    """See `curation_world.World`."""

    def prefers_first(self, prompt: str, one: str, two: str) -> bool:
        return oracle(prompt, one)

    def is_lured(self, right: str, wrong: str) -> bool:
        return is_flashy(wrong) and not is_flashy(right)

    def objectivity(self, prompt: str) -> str:
        return "Subjective" if self.category(prompt) in SUBJECTIVE else "Objective"

    @lru_cache(1 << 16)  # noqa: B019 (there is one of it)
    def category(self, prompt: str) -> str:
        return next(family.name for family in FAMILIES if family.check(prompt, "") is not None)


def is_flashy(text: str) -> bool:
    return "!" in text and "**" in text


def setting(folder: Path, pairs: int, console: Console) -> Setting:
    """The setting of so many pairs; trains the base in `folder`, which takes some minutes, unless it is there."""
    test = clean_pairs(TEST, TEST_SEED)
    base(folder, {pair.prompt for pair in test}, console)
    overrides = {"model.base": str(folder / "base"), "data.tokenizer": str(folder / "base" / "tokenizer")}
    return Setting(
        Synthetic(),
        lambda seed: clean_pairs(pairs, seed),
        test,
        LURED,
        RewardModel("configs/curation_experiment.yaml", overrides, checkpoints=2, dtype="float32"),
        {"run.epochs": 8, "optimizer.batch": 32},
        EmbedderConfig(dtype="float32", max_tokens=128),
        steps=250,
    )


def clean_pairs(count: int, seed: int) -> list[Comparison]:
    """Pairs with true labels; half of them in the other order, so that place says nothing."""
    pairs = []
    for comparison in generate(count, seed, 0.0, LURES, 2):
        right = truth(comparison).index(True)
        responses = comparison.responses[right], comparison.responses[1 - right]
        pair = replace(
            comparison, responses=responses, preferences=Comparison.of("p", ["a", "b"], chosen=0).preferences
        )
        if random.Random(f"order {pair.id}").random() < 0.5:
            preference = replace(pair.preferences[0], winner=1, loser=0)
            pair = replace(pair, responses=responses[::-1], preferences=(preference,))
        pairs.append(pair)
    return pairs


def base(folder: Path, held_out: set[object], console: Console) -> None:
    """FOLDER/base: a small model that has learnt the tasks, from true comparisons, but not what is preferred: its head is
    zero. It stands for a pretrained language model."""
    if (folder / "base" / "checkpoints").is_dir():
        return
    shutil.rmtree(folder / "base", ignore_errors=True)
    data, tokenizer, trained = folder / "base.jsonl", folder / "tokenizer", folder / "base-training"
    comparisons = generate(BASE_COMPARISONS, BASE_SEED, 0.0, BASE_LURES)
    write(data, [comparison for comparison in comparisons if comparison.prompt not in held_out])
    bpe.main([str(data), "--out", str(tokenizer)])
    shutil.rmtree(trained, ignore_errors=True)
    given = ["--config", "configs/quickstart.yaml", "--data.sources", json.dumps([str(data)]), "--data.held_out", "0"]
    given += ["--data.tokenizer", str(tokenizer), "--run.out", str(trained), "--run.epochs", "10"]
    given += ["--run.steps", str(BASE_STEPS), "--run.evaluate_every", "0", "--run.checkpoint_every", "0"]
    train(parse_train_config([*given, "--run.log_every", "100"]), console)
    model = checkpoint.load_model(trained)
    params = dict(model.params)
    params["score"] = np.zeros_like(np.asarray(params["score"]))
    write_checkpoint(folder / "base", MemoryWeights.of(model.architecture, params), model.tokenizer, {})
