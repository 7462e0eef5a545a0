"""FLOPs by formula against a count of the products of a dense forward pass."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skyrm_jax.chips import chip
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.flops import flops
from skyrm_jax.models.parameters import initialise
from skyrm_jax.models.reward import RewardModel
from skyrm_jax.plan.flops import TreeStatistics, roofline

MODEL = Architecture("qwen3", 100, 32, 48, 1, 4, 2, 16, True, 1e-6, Rope("default", 1e4), 512, 0)


def products(jaxpr: Any) -> float:
    """FLOPs of all dot_generals of a jaxpr and those within it."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * np.prod(out) * np.prod([left[axis] for axis in contracted])
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            total += products(getattr(inner, "jaxpr", inner)) if hasattr(inner, "eqns") else 0.0
    return total


def test_the_formula_counts_every_product() -> None:
    tokens = 64
    index = jnp.arange(tokens)[None]
    batch = (index, index, jnp.full_like(index, tokens), jnp.array([[tokens - 1]]))
    params = initialise(MODEL, jax.random.key(0))
    counted = products(
        jax.make_jaxpr(lambda p: RewardModel(MODEL, p, "float32", attention="reference")(*batch))(params)
    )
    # The oracle computes every pair of tokens, masked or not; and the head's product, which the formula leaves out.
    mine = flops(MODEL, tokens, tokens * tokens).total / 3
    assert counted == pytest.approx(mine + 2 * MODEL.hidden, rel=0.02)


def test_an_assumed_pair_sees_what_its_tree_sees() -> None:
    seen = TreeStatistics.assumed(8)
    # Four tokens of prompt, two of each response: 1+2+3+4 and twice 5+6.
    assert (seen.tokens, seen.visible) == (8, 10 + 22)


def test_the_roofline_divides_by_all_chips() -> None:
    trees = TreeStatistics.assumed()
    each = flops(MODEL, trees.tokens, trees.visible)
    step = roofline(each, 100, 4, chip("v5e"))
    assert step.at_peak == pytest.approx(each.total * 100 / (4 * 197e12))
    assert step.at_half == 2 * step.at_peak
