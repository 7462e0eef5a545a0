"""The programs that a plan compiles are those of the run and of the scorer."""

from pathlib import Path
from typing import Any, cast

import jax
import pytest

from skyrm_jax.chat import Chat
from skyrm_jax.checkpoint import LoadedModel
from skyrm_jax.config import ModelConfig, OptimizerConfig
from skyrm_jax.mesh import make_mesh
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.parameters import flattened, initialise
from skyrm_jax.packing import RowShape
from skyrm_jax.plan.programs import SCORE, Program, Programs, scoring_params
from skyrm_jax.scorer import Scorer

MODEL = Architecture("qwen3", 1000, 64, 96, 2, 4, 2, 16, True, 1e-6, Rope("default", 1e4), 512, 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_scoring_is_planned_with_what_a_scorer_holds(dtype: Any) -> None:
    mesh = make_mesh()
    loaded = LoadedModel(MODEL, initialise(MODEL, jax.random.key(0)), Path("."), {}, "here", Path("."))
    held = flattened(Scorer(loaded, cast(Chat, None), mesh, dtype=dtype).loaded.params)
    planned = flattened(scoring_params(MODEL, dtype, mesh))
    # On this CPU the bits of bfloat16 stand for it.
    assert {name: (value.shape, str(value.dtype).replace("uint16", "bfloat16")) for name, value in held.items()} == {
        name: (value.shape, str(value.dtype)) for name, value in planned.items()
    }


def test_scoring_is_compiled_beside_the_step() -> None:
    programs = Programs(MODEL, ModelConfig(base="none", compute_dtype="float32"), OptimizerConfig(), make_mesh())
    shape = RowShape(2, 256, 4, 1)
    made = programs.compile(SCORE, shape)
    assert isinstance(made, Program)
    # Parameters, rewards and what lies between; no moments wait beside it.
    assert programs.held.parameters < made.needs == made.peak < programs.held.parameters + 2**24
    assert "f32[2,4]" in made.hlo.splitlines()[0], "the rewards come out"
