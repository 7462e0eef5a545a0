"""The model card tells what a model was made from and with, by whichever way it was made."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from skyrm_jax.chat import Chat
from skyrm_jax.convert.card import model_card
from skyrm_jax.convert.cli import main
from skyrm_jax.convert.hf_export import write_hf
from skyrm_jax.convert.streamed import write_checkpoint
from skyrm_jax.convert.weights import MemoryWeights
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.parameters import map_table

SMALL = Architecture("qwen3", 320, 16, 32, 1, 2, 1, 8, True, 1e-6, Rope(), 512, 0)
NOTHING = MemoryWeights.of(SMALL, map_table(SMALL, lambda _, spec: np.zeros(spec.shape, np.float32)))
RUN: dict[str, Any] = {"config": {"model": {"base": "a/base"}, "data": {"sources": ["pairs.jsonl"]}, "optimizer": {}}}


def row(card: str, name: str) -> str:
    return next(line for line in card.splitlines() if line.startswith(f"| {name} |"))


def test_a_training_run_and_the_versions_it_used_are_told() -> None:
    card = model_card(SMALL, "float32", {**RUN, "template_hash": "1234", "versions": {"jax": "0.0.7"}})
    assert "a/base" in row(card, "base") and "1234" in row(card, "chat template (sha256)")
    assert '["pairs.jsonl"]' in row(card, "preference data")
    assert row(card, "made with") == "| made with | jax 0.0.7 |"
    prepared = {"config": {"data": {"sources": [], "store": "a/store"}}}
    assert "a/store" in row(model_card(SMALL, "float32", prepared), "preference data")
    nothing = model_card(SMALL, "float32", {})
    assert "none recorded" in row(nothing, "preference data")
    for package in ("jax", "transformers", "flax"):
        assert f"{package} {version(package)}" in row(nothing, "made with")


def test_the_template_of_a_hugging_face_folder_is_told(tmp_path: Path, byte_tokenizer: Path) -> None:
    write_hf(tmp_path / "hf", NOTHING, byte_tokenizer)
    main(["to-hf", str(tmp_path / "hf"), str(tmp_path / "out")])
    card = (tmp_path / "out" / "README.md").read_text()
    assert Chat.load(byte_tokenizer).template_hash in row(card, "chat template (sha256)")


def test_an_average_tells_what_its_members_were_trained_on(tmp_path: Path, byte_tokenizer: Path) -> None:
    write_checkpoint(tmp_path / "one", NOTHING, byte_tokenizer, {**RUN, "template_hash": "1234"})
    write_hf(tmp_path / "other", NOTHING, byte_tokenizer)
    main(["average", str(tmp_path / "one"), str(tmp_path / "other"), "--out", str(tmp_path / "mean")])
    main(["to-hf", str(tmp_path / "mean"), str(tmp_path / "out")])
    card = (tmp_path / "out" / "README.md").read_text()
    data, templates = row(card, "preference data"), row(card, "member templates")
    assert f'"{tmp_path}/one": ["pairs.jsonl"]' in data and f'"{tmp_path}/other": null' in data
    computed = Chat.load(byte_tokenizer).template_hash
    assert f'"{tmp_path}/one": "1234"' in templates and f'"{tmp_path}/other": "{computed}"' in templates
    assert computed in row(card, "chat template (sha256)")
