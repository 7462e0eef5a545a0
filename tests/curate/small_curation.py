"""A curation small enough for a test: synthetic pairs, a model of random weights, judges and people who know the truth."""

import json
from pathlib import Path
from typing import Any

from curation_synthetic import Synthetic
from curation_world import asked, attributes
from curation_world import people as people_who_err
from fake_openai import Body

from skyrm_jax.comparison import to_record
from skyrm_jax.curate.annotators import Annotator
from skyrm_jax.curate.config import CurateConfig, EmbedderConfig, Stage1, Stage2
from skyrm_jax.curate.decisions import Rule
from skyrm_jax.curate.humans.queue import HumanQueue
from skyrm_jax.curate.judge import JudgeOptions
from skyrm_jax.curate.preprocess import Preprocess
from skyrm_jax.curate.training import RewardModel
from skyrm_jax.data import bpe
from skyrm_jax.data.synthetic import generate

TRAIN = """
data: {{sources: [none], tokenizer: {tokenizer}, max_tokens: 96, row_tokens: 256, rows: 1}}
model:
  compute_dtype: float32
  architecture:
    model_type: qwen3
    hidden_size: 32
    intermediate_size: 48
    num_hidden_layers: 1
    num_attention_heads: 2
    num_key_value_heads: 1
    head_dim: 16
    initializer_range: 0.1
    max_position_embeddings: 512
optimizer: {{batch: 8, learning_rate: 3.0e-3}}
"""

WORLD = Synthetic()

people = people_who_err(WORLD, 0, 1.0)
"""People who are always right."""


def write_data(folder: Path, count: int) -> Path:
    """So many synthetic pairs, every third label wrong, and a tokenizer and a train config beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for i, comparison in enumerate(generate(count, 5, most=2)):
        record = to_record(comparison)
        if i % 3 == 0:
            record["preferences"] = [pair[::-1] for pair in record["preferences"]]
        records.append(record)
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    bpe.main([str(data), "--out", str(folder / "tokenizer"), "--vocabulary", "400"])
    (folder / "train.yaml").write_text(TRAIN.format(tokenizer=folder / "tokenizer"))
    return data


def config(folder: Path, url: str, **options: Any) -> CurateConfig:
    """A curation of the data in `folder`, into `folder`/out, with two models at `url`."""
    defaults: dict[str, Any] = {
        "out": str(folder / "out"),
        "reward_model": RewardModel(str(folder / "train.yaml"), checkpoints=2, dtype="float32"),
        "preprocess": Preprocess(["pairs.jsonl"], root=str(folder)),
        "annotators": [Annotator(name, name, url, concurrency=4, retries=2) for name in ("a", "b")],
        "judge": JudgeOptions(votes=2, examples=2),
        "humans": HumanQueue(budget=8),
        "embedder": EmbedderConfig(dtype="float32", max_tokens=96),
        "stage1": Stage1(iterations=1, first=40, pairs=24),
        "stage2": Stage2(Rule(band=0.3)),
    }
    return CurateConfig(**(defaults | options))


def reply(body: Body) -> str:
    """An annotator who is always right."""
    wants_attributes, prompt, one, two = asked(body)
    if wants_attributes:
        return attributes(WORLD, prompt)
    return json.dumps({"preferred": f"Candidate {1 if WORLD.prefers_first(prompt, one, two) else 2}"})


def files_of(folder: Path) -> dict[str, bytes]:
    """What a curation has made, but for what depends on times: names and contents."""
    found = {}
    for pattern in ("pool/*", "iterations/*/*.parquet", "stage2/*/part-*", "final/*/*"):
        found |= {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern))}
    return found
