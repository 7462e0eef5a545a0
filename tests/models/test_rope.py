"""RoPE frequencies equal transformers' own."""

import numpy as np
import pytest

from skyrm_jax.models.architecture import Rope
from skyrm_jax.models.rope import inv_freq

LLAMA3 = [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (3.0, 1.3, 3.7, 100)]


def transformers_inv_freq(rope: Rope, head_dim: int) -> np.ndarray:
    pytest.importorskip("torch")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaling = None
    if rope.kind == "llama3":
        scaling = {
            "rope_type": "llama3",
            "factor": rope.factor,
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_max_positions,
        }
    config = LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        max_position_embeddings=131072,
        rope_theta=rope.theta,
        rope_scaling=scaling,
    )
    return LlamaRotaryEmbedding(config).inv_freq.numpy()


@pytest.mark.parametrize("head_dim", [8, 64, 128])
@pytest.mark.parametrize("theta", [1e4, 1e5, 5e5, 1e6])
@pytest.mark.parametrize("scaling", [None, *LLAMA3])
def test_frequencies_are_transformers_to_an_ulp(head_dim, theta, scaling):
    rope = Rope("default", theta) if scaling is None else Rope("llama3", theta, *scaling)
    ours, theirs = inv_freq(rope, head_dim), transformers_inv_freq(rope, head_dim)
    assert ours.dtype == np.float32 and ours.shape == (head_dim // 2,)
    # torch's pow is not correctly rounded, and the blend of llama3 can double that one ulp.
    assert np.all(np.abs(ours - theirs) <= 2 * np.spacing(theirs))
    assert np.mean(ours == theirs) >= 0.9


def test_every_parameter_of_llama3_scaling_is_live():
    def frequencies(*scaling: float) -> np.ndarray:
        return inv_freq(Rope("llama3", 5e5, *scaling), 64)

    base = frequencies(8.0, 1.0, 4.0, 8192)
    for other in [(9.0, 1.0, 4.0, 8192), (8.0, 1.1, 4.0, 8192), (8.0, 1.0, 4.4, 8192), (8.0, 1.0, 4.0, 8000)]:
        assert np.abs(frequencies(*other) / base - 1).max() > 1e-3
    assert np.array_equal(frequencies(1.0, 1.0, 4.0, 8192) > 0, base > 0)
    assert np.allclose(frequencies(1.0, 1.0, 4.0, 8192), inv_freq(Rope("default", 5e5), 64), rtol=1e-6)
