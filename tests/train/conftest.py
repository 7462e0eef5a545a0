"""A run small enough for tests: a real tokenizer, a real store, a model of a few thousand parameters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyrm_jax.config import DataConfig, MeshConfig, ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from skyrm_jax.data import bpe

ARCHITECTURE = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "max_position_embeddings": 512,
}


def records(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Comparisons of 2 to 5 responses where the chosen one repeats the word that was asked for."""
    rng = np.random.default_rng(seed)
    words = ["red", "green", "blue", "black", "white", "grey"]
    made = []
    for number in range(count):
        picked = rng.permutation(words)[: rng.integers(2, 6)].tolist()
        prompt = f"Question {number}: repeat the word {picked[0]}"
        made.append({"id": str(number), "prompt": prompt, "responses": picked, "chosen": 0})
    return made


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data.jsonl (60 comparisons) and tokenizer/."""
    folder = tmp_path_factory.mktemp("material")
    made = records(60)
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made))
    tokenizer = bpe.train([f"{r['prompt']} {' '.join(r['responses'])}" for r in made], vocabulary=400)
    bpe.save(tokenizer, folder / "tokenizer")
    return folder


@pytest.fixture
def config(material: Path, tmp_path: Path) -> TrainConfig:
    """A run of 10 steps over it."""
    return ten_steps(material, tmp_path / "run")


@pytest.fixture(scope="module")
def module_config(material: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The same for a run that the tests of a module share."""
    return ten_steps(material, tmp_path_factory.mktemp("shared") / "run")


def ten_steps(material: Path, out: Path) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(
            sources=[str(material / "data.jsonl")],
            tokenizer=str(material / "tokenizer"),
            max_tokens=64,
            row_tokens=128,
            rows=1,
            held_out=10,
        ),
        model=ModelConfig(architecture=ARCHITECTURE, compute_dtype="float32"),
        optimizer=OptimizerConfig(batch=10, learning_rate=1e-3, schedule="linear", warmup=2),
        mesh=MeshConfig(),
        run=RunConfig(out=str(out), epochs=2, evaluate_every=4, checkpoint_every=1),
    )
