"""What the gpu backend does on top of the conformance suite. None of this shows that its kernels run on a GPU."""

import jax.numpy as jnp
import pytest

from skyrm_jax.attention.gpu import GpuBackend
from skyrm_jax.errors import UserError


def test_what_the_kernels_cannot_honour_is_refused() -> None:
    x = jnp.zeros((1, 16, 1, 80))
    backend = GpuBackend()
    with pytest.raises(UserError, match=r"head_dim: .* not 80"):
        backend.attend(x, x, x, backend.prepare(jnp.arange(1, 17)[None]))
