"""The configs of the eight published models describe exactly those models."""

import math
from pathlib import Path

import jax
import pytest

from skyrm_jax.config import parse_train_config
from skyrm_jax.convert.names import hf_tensors
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.parameters import abstract
from skyrm_jax.models.reward import RewardModel
from skyrm_jax.train.setup import hf_config

CONFIGS = Path(__file__).parents[2] / "configs"

# layers, hidden, mlp, heads, kv heads, head_dim, qk norm, vocabulary, eps, theta, scaling factor, positions, pad
FACTS = {
    "qwen3_0.6b": (28, 1024, 3072, 16, 8, 128, True, 151_936, 1e-6, 1e6, None, 40_960, 151_654),
    "qwen3_1.7b": (28, 2048, 6144, 16, 8, 128, True, 151_936, 1e-6, 1e6, None, 40_960, 151_654),
    "qwen3_4b": (36, 2560, 9728, 32, 8, 128, True, 151_936, 1e-6, 1e6, None, 40_960, 151_654),
    "qwen3_8b": (36, 4096, 12_288, 32, 8, 128, True, 151_936, 1e-6, 1e6, None, 40_960, 151_654),
    "llama3.2_1b": (16, 2048, 8192, 32, 8, 64, False, 128_256, 1e-5, 5e5, 32.0, 131_072, 128_004),
    "llama3.2_3b": (28, 3072, 8192, 24, 8, 128, False, 128_256, 1e-5, 5e5, 32.0, 131_072, 128_004),
    "llama3.1_8b": (32, 4096, 14_336, 32, 8, 128, False, 128_256, 1e-5, 5e5, 8.0, 131_072, 128_004),
    "llama3.1_8b_40m": (32, 4096, 14_336, 32, 8, 128, False, 128_256, 1e-5, 5e5, 8.0, 131_072, 128_004),
}

# Parameters without lm_head, with the score head; tensors in the Hugging Face file.
PUBLISHED = {
    "qwen3_0.6b": (596_050_944, 311),
    "qwen3_1.7b": (1_720_577_024, 311),
    "qwen3_4b": (4_022_470_656, 399),
    "qwen3_8b": (7_568_409_600, 399),
    "llama3.2_1b": (1_235_816_448, 147),
    "llama3.2_3b": (3_212_752_896, 255),
    "llama3.1_8b": (7_504_928_768, 291),
    "llama3.1_8b_40m": (7_504_928_768, 291),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_config_has_the_published_size(name: str) -> None:
    given = parse_train_config(["--config", str(CONFIGS / f"{name}.yaml")]).model.architecture
    architecture = Architecture.from_hf(hf_config(given))
    a = architecture
    scaled = a.rope.factor if a.rope == Rope("llama3", a.rope.theta, a.rope.factor, 1.0, 4.0, 8192) else None
    found = (a.layers, a.hidden, a.mlp, a.heads, a.kv_heads, a.head_dim, a.qk_norm, a.vocab_size, a.rms_eps)
    assert (*found, a.rope.theta, scaled, a.max_positions, a.pad_token_id) == FACTS[name]
    parameters, tensors = PUBLISHED[name]
    assert architecture.parameter_count() == parameters and architecture.tensor_count() == tensors
    params = abstract(architecture)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == parameters
    assert len(list(hf_tensors(architecture))) == tensors
    tokens = jax.ShapeDtypeStruct((1, 64), "int32")
    leaves = jax.ShapeDtypeStruct((1, 2), "int32")
    rewards = jax.eval_shape(
        lambda params, tokens, leaves: RewardModel(architecture, params)(tokens, tokens, tokens, leaves),
        params,
        tokens,
        leaves,
    )
    assert rewards.shape == (1, 2)
