"""verify_published against a stand-in: a small model in place of a published one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyrm_jax.chat import Chat
from skyrm_jax.comparison import Comparison
from skyrm_jax.convert.hf_export import write_hf
from skyrm_jax.convert.weights import MemoryWeights
from skyrm_jax.data import bpe
from skyrm_jax.models.parameters import map_table
from skyrm_jax.scorer import Scorer

NAME = "Skywork-Reward-V2-Qwen3-0.6B"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
)
"""What Qwen3's own writes for a question and an answer."""
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
    (tmp_path / "tokenizer" / "chat_template.jinja").write_text(TEMPLATE)
    write_hf(tmp_path / NAME, MemoryWeights.of(architecture, params), tmp_path / "tokenizer")
    return module


def run(verifier: Any, folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    status = 0
    try:
        verifier.main(["--models", NAME, "--folder", str(folder), "--json", str(folder / "out.json"), *options])
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, {row["fact"]: row for row in json.loads((folder / "out.json").read_text())}


def test_a_model_as_believed_passes(verifier: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, rows = run(verifier, tmp_path, "--no-rewards")
    assert status == 0 and all(row["same"] for row in rows.values())
    assert f"skipped by --no-rewards: the published rewards of {NAME}" in capsys.readouterr().out
    assert rows["tensors"]["found"] == "25" and "scored token" in rows and "chat template" in rows


def test_what_differs_is_printed(verifier: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / NAME / "config.json"
    config = json.loads(file.read_text()) | {"pad_token_id": 100, "rope_theta": 1e4, "rope_parameters": None}
    file.write_text(json.dumps(config))
    status, rows = run(verifier, tmp_path, "--no-rewards")
    assert status == 1
    assert {fact for fact, row in rows.items() if not row["same"]} == {"rope", "pad_token_id", "pad token"}
    assert "pad_token_id" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "facts"),
    [
        ("<|im_end|>\n", "<|im_end|>", {"template: scored token"}),
        ("<think>\n\n</think>\n\n", "", {"template: think block"}),
        ("\n\n</think>", "\nHm.\n</think>", {"template: think block"}),
        ("{% endfor %}", "{% endfor %}<|endoftext|>", {"template: pad tokens"}),
        ("{{ m.content }}", "{{ raise_exception('no') }}", {"chat template"}),
    ],
)
def test_another_template_differs(verifier: Any, tmp_path: Path, old: str, new: str, facts: set[str]) -> None:
    assert old in TEMPLATE
    (tmp_path / NAME / "chat_template.jinja").write_text(TEMPLATE.replace(old, new))
    status, rows = run(verifier, tmp_path, "--no-rewards")
    assert (status, {fact for fact, row in rows.items() if not row["same"]}) == (1, facts)


def write_bos(model: Path) -> None:
    """Has a BOS stand at the beginning of every conversation."""
    (model / "chat_template.jinja").write_text("<|endoftext|>" + TEMPLATE)
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bos_token": "<|endoftext|>"}))


def test_a_template_that_writes_bos_differs(verifier: Any, tmp_path: Path) -> None:
    write_bos(tmp_path / NAME)
    rows = run(verifier, tmp_path, "--no-rewards")[1]
    assert rows["template: BOS tokens"]["found"] == "1" and not rows["template: BOS tokens"]["same"]


@pytest.mark.parametrize(("family", "folder", "pad"), [("qwen3", "qwen3", 151654), ("llama", "llama3_1", 128004)])
def test_the_real_tokenizers_are_as_believed(tool: Any, shared: Path, family: str, folder: str, pad: int) -> None:
    verifier = tool("verify_published")
    chat = Chat.load(shared / "tokenizers" / folder, pad)
    assert [row for row in verifier.template("", verifier.TEMPLATES[family], chat) if not row.same] == []
    (other,) = verifier.TEMPLATES.keys() - {family}
    different = {row.fact for row in verifier.template("", verifier.TEMPLATES[other], chat) if not row.same}
    assert different == {"template: scored token", "template: think block", "template: BOS tokens"}


def test_a_conversation_that_cannot_be_scored_differs(
    verifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Comparison.of("Which token begins a text?", ["<|endoftext|>", "none"])
    monkeypatch.setattr(verifier, "EXAMPLE", example)
    write_bos(tmp_path / NAME)
    rows = run(verifier, tmp_path, "--no-rewards")[1]
    assert "BOS" in rows["the example can be scored"]["found"]


def test_published_rewards_are_compared(verifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (values,) = Scorer.load(str(tmp_path / NAME), max_tokens=1024).score([verifier.EXAMPLE])
    monkeypatch.setattr(verifier, "REWARDS", {NAME: (float(values[0]), float(values[1]) + 1.0)})
    status, rows = run(verifier, tmp_path)
    assert status == 1
    assert rows["reward of response 1"]["same"] and not rows["reward of response 2"]["same"]
