"""An export means the same to transformers 4.57 and 5: same rewards, one label, raw scores from the pipeline."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import LLAMA3, LLAMA_SMALL, QWEN3_SMALL, assert_equal_rewards, hf_model, our_rewards
from test_hf import add_tokenizer

from skyrm_jax.convert.cli import main
from skyrm_jax.convert.hf import read_hf

pytest.importorskip("torch")
pytestmark = pytest.mark.full

BASES = {"qwen3": QWEN3_SMALL, "llama": {**LLAMA_SMALL, "rope_scaling": LLAMA3, "rope_theta": 5e5}}
# Long enough that scaled RoPE shows; the pad id 7 inside.
TEXTS = [np.random.default_rng(0).integers(8, 96, size).tolist() for size in (3, 60, 2000)] + [[9, 10, 7, 11, 7]]
WORDS = "w1 w2 w3 w4"

READ = """
import json, sys, torch, transformers
folder, texts, words = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
with torch.no_grad():
    rewards = [model(torch.tensor([text])).logits[0, 0].item() for text in texts]
scored = transformers.pipeline("text-classification", model=folder)(words)
print(json.dumps({
    "version": transformers.__version__, "rewards": rewards, "labels": model.config.num_labels, "scored": scored,
    "head": list(model.score.weight.shape), "dtype": str(model.dtype),
}))
"""


@pytest.fixture(scope="module")
def transformers4() -> str:
    python = os.environ.get("SKYRM_TRANSFORMERS4")
    if not python:
        pytest.skip("SKYRM_TRANSFORMERS4 names no interpreter with transformers 4.57; tools/run_tests.sh --full does")
    return python


def read(python: str, folder: Path) -> dict[str, Any]:
    command = [python, "-c", READ, str(folder), json.dumps(TEXTS), WORDS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("base", BASES)
def test_both_generations_read_the_export_alike(tmp_path: Path, base: str, transformers4: str) -> None:
    hf_model(BASES[base]).save_pretrained(tmp_path / "hf")
    add_tokenizer(tmp_path / "hf")
    main(["from-hf", str(tmp_path / "hf"), str(tmp_path / "ours")])
    main(["to-hf", str(tmp_path / "ours"), str(tmp_path / "out")])
    old, new = read(transformers4, tmp_path / "out"), read(sys.executable, tmp_path / "out")
    assert old["version"].startswith("4.57") and int(new["version"].split(".")[0]) >= 5
    architecture, params, _ = read_hf(tmp_path / "out")
    ours = our_rewards(architecture, params, TEXTS)
    pooled = our_rewards(architecture, params, [[9, 10, 11, 12]])[0]  # WORDS
    for answer in (old, new):
        assert_equal_rewards(ours, np.array(answer["rewards"], np.float32))
        assert (answer["labels"], answer["head"], answer["dtype"]) == (1, [1, 48], "torch.float32")
        assert answer["scored"][0]["label"] == "LABEL_0"
        assert answer["scored"][0]["score"] == pytest.approx(float(pooled), abs=1e-4)


def test_a_config_in_the_new_dialect_alone_is_what_they_disagree_on(tmp_path: Path, transformers4: str) -> None:
    """The mistake that both dialects prevent: it must be visible in these texts, or the test above shows nothing."""
    hf_model(BASES["llama"]).save_pretrained(tmp_path / "hf")
    add_tokenizer(tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert "rope_parameters" in config and not config.get("rope_theta")
    old, new = read(transformers4, tmp_path / "hf"), read(sys.executable, tmp_path / "hf")
    assert np.abs(np.array(old["rewards"]) - np.array(new["rewards"])).max() > 1e-2
