"""Rewards equal transformers' sequence classifiers in fp32, on weights that make every mistake visible."""

from typing import Any

import numpy as np
import pytest
from small_models import (
    LLAMA3,
    LLAMA_SMALL,
    QWEN3_SMALL,
    assert_equal_rewards,
    hf_model,
    hf_rewards,
    our_rewards,
)

from skyrm_jax.convert.hf import read_hf
from skyrm_jax.models.architecture import _READ, Architecture

pytest.importorskip("torch")

# Scaled at lengths that a short text reaches, so that every parameter of the scaling shows.
LLAMA_SCALED = {**LLAMA_SMALL, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64}}
BASES = {"qwen3": QWEN3_SMALL, "llama": LLAMA_SMALL, "llama3": LLAMA_SCALED}


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    """Token sequences; the pad id (7) also stands inside the text and at its end, where it moves the scored token."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(8, 96, size).tolist() for size in (1, 2, 33, 150)]
    inside, end = list(texts[3]), list(texts[2])
    inside[5], inside[100] = 7, 7
    end[-3:] = [7, 7, 7]
    return [*texts, inside, end, [7, 7]]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Any]:
    """For each base: the transformers model, and the folder it was saved to."""
    made = {}
    for name, config in BASES.items():
        folder = tmp_path_factory.mktemp(name)
        model = hf_model(config)
        model.save_pretrained(folder)
        made[name] = (model, folder)
    return made


@pytest.mark.parametrize("base", BASES)
def test_rewards_equal_transformers(models, texts, base):
    model, folder = models[base]
    architecture, params, _ = read_hf(folder)
    theirs = hf_rewards(model, texts)
    assert np.ptp(theirs) > 1
    assert_equal_rewards(our_rewards(architecture, params, texts), theirs)


# Every live field. Those that share a value with another (heads and head_dim) move together, the weights staying.
CHANGES = [
    ("qwen3", {"rope_theta": 1.2e4}),
    ("llama", {"rope_theta": 1.2e4}),
    ("qwen3", {"rms_norm_eps": 1e-3}),
    ("llama", {"rms_norm_eps": 1e-3}),
    ("qwen3", {"pad_token_id": 8}),
    ("llama", {"pad_token_id": None}),
    ("llama", {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}),
    ("qwen3", {"num_hidden_layers": 1}),
    ("llama", {"num_hidden_layers": 1}),
    ("llama", {"rope_scaling": LLAMA_SCALED["rope_scaling"]}),
    ("llama3", {"rope_theta": 1.2e4}),
    ("llama3", {"rope_scaling": {**LLAMA_SCALED["rope_scaling"], "factor": 10.0}}),
    ("llama3", {"rope_scaling": {**LLAMA_SCALED["rope_scaling"], "low_freq_factor": 1.3}}),
    ("llama3", {"rope_scaling": {**LLAMA_SCALED["rope_scaling"], "high_freq_factor": 3.0}}),
    ("llama3", {"rope_scaling": {**LLAMA_SCALED["rope_scaling"], "original_max_position_embeddings": 96}}),
    ("llama3", {"rope_scaling": None}),
]  # fmt: skip


@pytest.mark.parametrize("base, change", CHANGES, ids=lambda value: str(value)[:60])
def test_every_live_field_moves_the_reward_and_ours_with_it(models, texts, base, change):
    model, folder = models[base]
    config = {**BASES[base], **change}
    changed = hf_model(config, model.state_dict())
    theirs = hf_rewards(changed, texts)
    assert np.abs(theirs - hf_rewards(model, texts)).max() >= 1e-3
    if change.get("pad_token_id", 0) is None:
        return  # read_hf insists on a pad token
    _, params, _ = read_hf(folder)
    architecture = Architecture.from_hf(changed.config.to_dict() | {"architectures": None})
    if "num_hidden_layers" in change:
        params = {**params, "layers": {name: value[:1] for name, value in params["layers"].items()}}
    assert_equal_rewards(our_rewards(architecture, params, texts), theirs)


# Keys that are read and compute nothing, with other values for them.
INERT = {
    "max_position_embeddings": 64,
    "bos_token_id": 5,
    "eos_token_id": 6,
    "initializer_range": 0.5,
    "tie_word_embeddings": True,
}
OF_SHAPES = {"vocab_size", "hidden_size", "intermediate_size"}
"""Keys that only say which shapes the weights have."""
OF_KIND = {"model_type", "architectures", "layer_types", "id2label", "num_labels", "rope_parameters"}
"""Keys that have one possible value, or, as rope_parameters, say in another dialect what others say."""


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("key", INERT)
def test_what_computes_nothing_moves_nothing(models, texts, base, key):
    model, _ = models[base]
    changed = hf_model({**BASES[base], key: INERT[key]}, model.state_dict())
    assert changed.config.to_dict()[key] == INERT[key] != model.config.to_dict()[key]
    np.testing.assert_array_equal(hf_rewards(changed, texts), hf_rewards(model, texts))


def test_no_key_that_is_read_was_forgotten():
    changed = {key for _, change in CHANGES for key in change}
    assert changed | INERT.keys() | OF_SHAPES | OF_KIND == _READ


@pytest.mark.parametrize("base", ["qwen3"])
@pytest.mark.parametrize("norm", ["q_norm", "k_norm"])
def test_query_and_key_norms_are_live(models, texts, base, norm):
    model, folder = models[base]
    architecture, params, _ = read_hf(folder)
    layers = {**params["layers"], norm: np.ones_like(params["layers"][norm])}
    changed = our_rewards(architecture, {**params, "layers": layers}, texts)
    assert np.abs(changed - hf_rewards(model, texts)).max() >= 1e-3


@pytest.mark.parametrize("base, theta", [("qwen3", 1e6), ("llama", 5e5)])
@pytest.mark.parametrize("scaling", [None, LLAMA3, {**LLAMA3, "factor": 32.0}])
def test_rewards_equal_transformers_at_positions_up_to_20000(tmp_path, base, theta, scaling):
    """The published RoPE settings at the published head sizes, at positions spread over 20,000."""
    config = {**BASES[base], "rope_theta": theta, "rope_scaling": scaling, "head_dim": 128, "num_key_value_heads": 1}
    model = hf_model(config)
    model.save_pretrained(tmp_path)
    architecture, params, _ = read_hf(tmp_path)
    rng = np.random.default_rng(1)
    text = rng.integers(8, 96, 300).tolist()
    positions = np.sort(rng.choice(20_000, 300, replace=False))
    positions[-1] = 19_999
    ours, theirs = (
        our_rewards(architecture, params, [text], positions),
        hf_rewards(model, [text], positions),
    )
    assert_equal_rewards(ours, theirs)
    if scaling is not None:
        plain = hf_model({**config, "rope_scaling": None}, model.state_dict())
        assert np.abs(hf_rewards(plain, [text], positions) - theirs).max() >= 1e-3


@pytest.mark.full
def test_rewards_equal_transformers_on_a_text_of_20000_tokens(tmp_path):
    config = {**LLAMA_SMALL, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "num_key_value_heads": 1, "rope_theta": 5e5, "rope_scaling": LLAMA3}  # fmt: skip
    model = hf_model(config)
    model.save_pretrained(tmp_path)
    architecture, params, _ = read_hf(tmp_path)
    texts = [np.random.default_rng(2).integers(8, 96, 20_000).tolist()]
    assert_equal_rewards(our_rewards(architecture, params, texts), hf_rewards(model, texts))


def test_a_real_checkpoint_scores_as_in_transformers(shared):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = shared / "models" / "stories260k"
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32).eval()
    architecture, params, _ = read_hf(folder)
    assert architecture.parameter_count() == 260_032 + 64  # and the head
    assert not params["score"].any()
    head = np.random.default_rng(3).normal(0, 0.2, (64, 1)).astype(np.float32)
    model.score.weight.data = torch.from_numpy(head.T.copy())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stories = ["Once upon a time, there was a little girl named Lily.", "The dog ran.", "Tom and Ben " * 40]
    texts = [tokenizer(story).input_ids for story in stories]
    assert_equal_rewards(our_rewards(architecture, {**params, "score": head}, texts), hf_rewards(model, texts))
