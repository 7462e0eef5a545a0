"""Which backend a name stands for."""

import jax
import pytest

from skyrm_jax import attention
from skyrm_jax.errors import UserError


@pytest.mark.parametrize("platform", ["cpu", "tpu", "gpu"])
def test_auto_picks_by_platform(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert attention.backend("auto") is attention.BACKENDS[platform]


def test_unknown_backend_is_named() -> None:
    with pytest.raises(UserError, match="'flash'"):
        attention.backend("flash")
