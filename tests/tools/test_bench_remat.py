"""The remat benchmark on a small model. Times are not looked at."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from skyrm_jax.models.decoder import REMAT_POLICIES

CONFIG = Path(__file__).parents[2] / "configs" / "alpaca_eval_qwen3_scratch.yaml"


def test_products_are_counted_in_loops_and_choices(tool: Any) -> None:
    products = tool("bench_remat").products
    w = jnp.zeros((3, 5))

    def twice(x: jax.Array) -> jax.Array:
        def body(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            y = jax.lax.platform_dependent(x, cpu=lambda x: x @ w, default=lambda x: x @ w)
            return y @ w.T, None

        return jax.lax.scan(body, x, None, length=7)[0]

    assert products(jax.make_jaxpr(jax.jit(twice))(jnp.zeros((2, 3))).jaxpr) == 7 * (2 * 2 * 3 * 5) * 2


@pytest.mark.full
def test_policies_keep_more_and_repeat_less(tool: Any, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    small = ["--layers", "4", "--rows", "1", "--tokens", "256", "--rounds", "1"]
    tool("bench_remat").main(["--config", str(CONFIG), *small, "--json", str(out)])
    found: dict[str, Any] = json.loads(out.read_text())
    full, _, minimal, none = (found[f"{policy}_products"] for policy in REMAT_POLICIES)
    assert full > 1.2 and minimal == none == 1
    assert found["full_bytes"] < found["minimal_bytes"] < found["none_bytes"]
    assert all(found[f"{policy}_seconds"] > 0 for policy in REMAT_POLICIES)
