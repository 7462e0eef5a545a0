"""Small Hugging Face models whose weights are large enough to show every mistake, and rewards of both sides."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from skyrm_jax.chat import build_tree
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.parameters import Params
from skyrm_jax.models.reward import RewardModel

# head_dim is not hidden / heads.
SMALL: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 1e4, "pad_token_id": 7, "bos_token_id": 1, "eos_token_id": 2, "num_labels": 1,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
QWEN3_SMALL = {**SMALL, "model_type": "qwen3"}
LLAMA_SMALL = {**SMALL, "model_type": "llama"}


def hf_model(config: dict[str, Any], weights: dict[str, Any] | None = None) -> Any:
    """A transformers sequence classifier in fp32; random weights of standard deviation 0.2, norm weights 0.5 to 1.5."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    # transformers writes into the dicts that it is given.
    theirs = AutoConfig.for_model(**deepcopy(config))
    model = AutoModelForSequenceClassification.from_config(theirs, attn_implementation="sdpa").float().eval()
    if weights is None:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.uniform_(0.5, 1.5, generator=generator)
                else:
                    parameter.normal_(0.0, 0.2, generator=generator)
    else:
        model.load_state_dict(weights, strict=False)
    return model


def hf_rewards(model: Any, texts: Sequence[Sequence[int]], positions: Sequence[int] | None = None) -> np.ndarray:
    """Rewards of token sequences, each alone and unpadded."""
    import torch

    rewards = []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([list(text)])
            extra = {}
            if positions is not None:
                # With positions and no mask, transformers takes jumps for the starts of packed texts.
                extra = {"position_ids": torch.tensor([list(positions)]), "attention_mask": torch.ones_like(ids)}
            rewards.append(model(ids, **extra).logits[0, 0].item())
    return np.array(rewards, np.float32)


def our_rewards(
    architecture: Architecture,
    params: Params,
    texts: Sequence[Sequence[int]],
    positions: Sequence[int] | None = None,
) -> np.ndarray:
    """The same from our model in fp32, each text a tree of one leaf in a row of its own."""
    width = max(map(len, texts))
    tokens, where = np.zeros((2, len(texts), width), np.int32)
    end = np.tile(np.arange(1, width + 1, dtype=np.int32), (len(texts), 1))
    pooled = np.zeros((len(texts), 1), np.int32)
    for row, text in enumerate(texts):
        tree = build_tree([list(text)], architecture.pad_token_id)
        size = len(tree.tokens)
        tokens[row, :size], end[row, :size], pooled[row] = tree.tokens, tree.end, tree.reward_index
        where[row, :size] = tree.positions if positions is None else positions

    @jax.jit
    def forward(params: Params, *arrays: jax.Array) -> jax.Array:
        return RewardModel(architecture, params, jnp.float32, "none")(*arrays)

    return np.asarray(forward(params, tokens, where, end, pooled))[:, 0]


def assert_equal_rewards(ours: np.ndarray, theirs: np.ndarray) -> None:
    error = np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))
    assert error.max() <= 5e-5, f"rewards differ by {error.max():.2e}: {ours} and {theirs}"


def safetensors_in(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder's safetensors files."""
    from safetensors.numpy import load_file

    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found
