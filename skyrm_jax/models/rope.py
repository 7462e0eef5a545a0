"""RoPE frequencies, by transformers' own fp32 expressions, from the one `Rope` fact of an architecture."""

import math

import numpy as np
from jaxtyping import Float32

from skyrm_jax.models.architecture import Rope


def inv_freq(rope: Rope, head_dim: int) -> Float32[np.ndarray, "E//2"]:
    """Radians per position of each rotated pair, fp32 `[head_dim / 2]`, fastest pair first.

    The angle of token t for pair i is `fp32(position[t]) * inv_freq[i]`; pair i is features (i, i + E/2) of a
    head. Every intermediate is fp32, in the order of `modeling_llama.compute_default_rope_parameters` and
    `modeling_rope_utils._compute_llama3_parameters`: a frequency rounded elsewhere is another angle at
    position 20,000. In torch `number / tensor` is `tensor.reciprocal() * number`, hence the products below.
    The power alone is taken in fp64 and rounded, which is what torch's fp32 `pow` gives but for one ulp now and then;
    numpy's own fp32 power is off by more, and by how much depends on the machine.
    """
    one, two_pi = np.float32(1.0), np.float32(2.0 * math.pi)
    exponent = np.arange(0, head_dim, 2).astype(np.float32) / np.float32(head_dim)
    power = (float(np.float32(rope.theta)) ** exponent.astype(np.float64)).astype(np.float32)
    frequency = one / power
    if rope.kind == "default":
        return frequency

    factor, low, high = np.float32(rope.factor), rope.low_freq_factor, rope.high_freq_factor
    context = np.float32(rope.original_max_positions)
    wavelength = (one / frequency) * two_pi
    is_long = wavelength > np.float32(rope.original_max_positions / low)
    is_short = wavelength < np.float32(rope.original_max_positions / high)
    smooth = ((one / wavelength) * context - np.float32(low)) / np.float32(high - low)
    blended = (one - smooth) * frequency / factor + smooth * frequency
    return np.where(is_long, frequency / factor, np.where(is_short, frequency, blended)).astype(np.float32)
