"""Where bf16 may be used: matrix operands and activations between them; everything that adds up is fp32."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tree_equals_separate import LLAMA, QWEN, batch_of, comparisons, packed, params_of

from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.reward import RewardModel

FUNCTIONS = {"exp", "exp2", "log", "logistic", "rsqrt", "sqrt", "cos", "sin", "div", "reduce_sum", "reduce_max"}


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a jaxpr and of those within it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("architecture", [QWEN, LLAMA], ids=lambda a: a.model_type)
def test_products_accumulate_in_fp32_and_no_function_is_taken_in_bf16(architecture: Architecture) -> None:
    params = params_of(architecture)
    batch, _, _ = packed(comparisons(0), 160, 1)

    def total(params: Any) -> jax.Array:
        model = RewardModel(architecture, params, "bfloat16", attention="cpu")
        rewards = model(batch["tokens"], batch["positions"], batch["end"], batch["reward_index"])
        assert rewards.dtype == jnp.float32
        return rewards.sum()

    def scored(params: Any) -> jax.Array:
        return RewardModel(architecture, params, "bfloat16", attention="cpu").rewards(**batch_of(batch))

    jaxprs = jax.make_jaxpr(jax.grad(total))(params), jax.make_jaxpr(scored)(params)
    found = [e for jaxpr in jaxprs for e in equations(jaxpr.jaxpr)]
    products = [e for e in found if e.primitive.name == "dot_general"]
    assert all(e.outvars[0].aval.dtype == jnp.float32 for e in products)
    operands = [{v.aval.dtype for v in e.invars} for e in products]
    assert {jnp.dtype("bfloat16")} in operands, "no product has bf16 operands"
    taken = [e for e in found if e.primitive.name in FUNCTIONS]
    assert {"exp", "rsqrt", "cos", "logistic"} <= {e.primitive.name for e in taken}
    wrong = [e for e in taken if any(v.aval.dtype == jnp.bfloat16 for v in (*e.invars, *e.outvars))]
    assert not wrong, wrong[0]


@pytest.mark.parametrize("architecture", [QWEN, LLAMA], ids=lambda a: a.model_type)
def test_bf16_rewards_stay_near_those_of_fp32(architecture: Architecture) -> None:
    params = params_of(architecture)
    batch, slots, _ = packed(comparisons(0), 160, 1)
    rewards = {}
    for dtype in ("float32", "bfloat16"):
        model = RewardModel(architecture, params, dtype)
        for name, method in (("training", model), ("scoring", model.rewards)):
            found = np.asarray(jax.jit(method)(**batch_of(batch)))  # type: ignore[operator]
            rewards[name, dtype] = found.reshape(-1)[sorted(slots.values())]
    for name in ("training", "scoring"):
        low, exact = rewards[name, "bfloat16"], rewards[name, "float32"]
        assert 0 < np.abs(low - exact).max() / np.std(exact) < 0.1
