"""Which chip is meant by a name of ours and by one of JAX's."""

import pytest

from skyrm_jax.chips import CHIPS, chip, chip_of
from skyrm_jax.errors import UserError


@pytest.mark.parametrize(
    ("kind", "generation"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),  # what JAX calls a v5p
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA H100 80GB HBM3", "h100"),
    ],
)
def test_jax_names_of_devices(kind: str, generation: str) -> None:
    assert chip_of(kind) is CHIPS[generation]


@pytest.mark.parametrize("kind", ["cpu", "", "TPU v4", "NVIDIA A100-SXM4-80GB", "NVIDIA H100 PCIe", "NVIDIA H100 NVL"])
def test_no_figures_of_another_chip_are_taken(kind: str) -> None:
    assert chip_of(kind) is None


def test_an_unknown_generation_is_refused_with_the_known_ones() -> None:
    assert chip("v5p").flops == 459e12
    with pytest.raises(UserError, match=r"no chip 'v9': choose from v5e, v5p, v6e, tpu7x, h100"):
        chip("v9")
