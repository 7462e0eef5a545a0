"""verify_published against a stand-in: a small model in place of a published one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyrm_jax.convert.hf_export import write_hf
from skyrm_jax.convert.weights import MemoryWeights
from skyrm_jax.data import bpe
from skyrm_jax.models.parameters import map_table
from skyrm_jax.scorer import Scorer

NAME = "Skywork-Reward-V2-Qwen3-0.6B"
CONFIG = """
data: {sources: [x.jsonl]}
model:
  base: base
  architecture:
    {model_type: qwen3, vocab_size: 300, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2,
     num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8, rope_theta: 1000000, rms_norm_eps: 1.0e-6,
     max_position_embeddings: 4096, pad_token_id: 0}
"""


@pytest.fixture
def verifier(tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = tool("verify_published")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "qwen3_0.6b.yaml").write_text(CONFIG)
    monkeypatch.setattr(module, "CONFIGS", tmp_path / "configs")
    architecture = module.believed("qwen3_0.6b")
    rng = np.random.default_rng(0)
    params = map_table(architecture, lambda _, spec: rng.normal(0, 0.2, spec.shape).astype(np.float32))
    bpe.save(bpe.train(["Jane has 12 apples"] * 3, vocabulary=300), tmp_path / "tokenizer")
    write_hf(tmp_path / NAME, MemoryWeights.of(architecture, params), tmp_path / "tokenizer")
    return module


def run(verifier: Any, folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    status = 0
    try:
        verifier.main(["--models", NAME, "--folder", str(folder), "--json", str(folder / "out.json"), *options])
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, {row["fact"]: row for row in json.loads((folder / "out.json").read_text())}


def test_a_model_as_believed_passes(verifier: Any, tmp_path: Path) -> None:
    status, rows = run(verifier, tmp_path)
    assert status == 0 and all(row["same"] for row in rows.values())
    assert rows["tensors"]["found"] == "25" and "scored token" in rows and "chat template" in rows


def test_what_differs_is_printed(verifier: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / NAME / "config.json"
    config = json.loads(file.read_text()) | {"pad_token_id": 100, "rope_theta": 1e4, "rope_parameters": None}
    file.write_text(json.dumps(config))
    status, rows = run(verifier, tmp_path)
    assert status == 1
    assert {fact for fact, row in rows.items() if not row["same"]} == {"rope", "pad_token_id", "pad token"}
    assert "pad_token_id" in capsys.readouterr().out


def test_published_rewards_are_compared(verifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (values,) = Scorer.load(str(tmp_path / NAME), max_tokens=1024).score([verifier.EXAMPLE])
    monkeypatch.setattr(verifier, "REWARDS", {NAME: (float(values[0]), float(values[1]) + 1.0)})
    status, rows = run(verifier, tmp_path, "--rewards")
    assert status == 1
    assert rows["reward of response 1"]["same"] and not rows["reward of response 2"]["same"]
