"""The programs of a run, compiled ahead of time for devices that need not exist, and the memory each takes."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from skyrm_jax.config import ModelConfig, OptimizerConfig
from skyrm_jax.mesh import replicated
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.parameters import ParameterSpec, Params, abstract, flattened, map_table
from skyrm_jax.models.sharding import rows as by_row
from skyrm_jax.packing import RowShape
from skyrm_jax.rows import blank
from skyrm_jax.scorer import forward_program, is_operand
from skyrm_jax.train.optimizer import make_optimizer
from skyrm_jax.train.step import Accumulated, TrainState, abstract_moments, step_programs

STEP = ("first", "add", "update", "evaluate")
"""The programs of `StepPrograms`; `first` and `update` are a step of one micro-batch, `add` is each further one."""

SCORE = "score"
"""The scorer's program: not of a step, but of whoever scores with the model on that mesh."""


@dataclass(frozen=True)
class Program:
    """One compiled program; bytes are per device.

    Args:
        peak: what it needs at its worst moment, arguments and results included.
        resident: what a device holds meanwhile that this program does not see: idle moments.
        seconds: of compilation.
        hlo: what the compiler made of it.
    """

    name: str
    peak: int
    resident: int
    seconds: float
    hlo: str

    @property
    def needs(self) -> int:
        """Bytes a device must have for it."""
        return self.peak + self.resident


@dataclass(frozen=True)
class DoesNotFit:
    """What the compiler says of a program that exceeds the device."""

    name: str
    reason: str


@dataclass(frozen=True)
class Held:
    """Bytes per device of what a run holds throughout: its parameters, and the optimiser's moments."""

    parameters: int
    moments: int


class Programs:
    """The programs of a run of this model on this mesh, compiled when asked for."""

    def __init__(self, architecture: Architecture, model: ModelConfig, optimizer: OptimizerConfig, mesh: Mesh):
        self.architecture, self.model, self.mesh = architecture, model, mesh
        transform = make_optimizer(optimizer, architecture, steps=1000)
        self._params: Any = abstract(architecture, mesh)
        self._moments: Any = abstract_moments(transform, architecture, mesh)
        with jax.set_mesh(mesh):
            self._programs = step_programs(architecture, model, transform, mesh)
            self._score = forward_program(architecture, mesh, model.compute_dtype, model.attention)
        self.held = Held(shard_bytes(self._params), shard_bytes(self._moments))

    def compile(self, name: str, shape: RowShape) -> Program | DoesNotFit:
        """`name` of STEP, or SCORE, with micro-batches of this shape, whose rows are those of all devices."""
        program: Callable[..., Any] = self._score if name == SCORE else getattr(self._programs, name)
        with jax.set_mesh(self.mesh):
            lowered = program.lower(*self._arguments(name, shape))  # type: ignore[attr-defined]
            began = time.monotonic()
            try:
                compiled = lowered.compile()
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                return DoesNotFit(name, _first_line(str(error)))
            seconds = time.monotonic() - began
        memory = compiled.memory_analysis()
        resident = 0 if name in ("update", SCORE) else self.held.moments
        return Program(name, memory.peak_memory_in_bytes, resident, seconds, compiled.as_text())

    def _arguments(self, name: str, shape: RowShape) -> tuple[Any, ...]:
        sharding = NamedSharding(self.mesh, by_row())
        # One row's dtypes and widths; never all rows, which may be many gigabytes.
        batch = {
            field: jax.ShapeDtypeStruct((shape.rows, *array.shape[1:]), array.dtype, sharding=sharding)
            for field, array in blank(shape, 1, 0).arrays().items()
        }
        scalar: Any = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(self.mesh))
        if name == SCORE:
            return scoring_params(self.architecture, self.model.compute_dtype, self.mesh), batch
        if name == "evaluate":
            return self._params, batch
        if name == "first":
            return self._params, batch, scalar
        counted: Mapping[str, Any] = jax.eval_shape(self._programs.first, self._params, batch, scalar).metrics
        metrics = {
            key: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(self.mesh))
            for key, leaf in counted.items()
        }
        sums = Accumulated(self._params, scalar, metrics)
        if name == "add":
            return sums, self._params, batch, scalar
        return TrainState(self._params, self._moments), sums


def scoring_params(architecture: Architecture, dtype: str, mesh: Mesh) -> Params:
    """The abstract parameters of a scorer that computes in `dtype`."""
    flat = flattened(abstract(architecture, mesh))

    def leaf(path: str, spec: ParameterSpec) -> jax.ShapeDtypeStruct:
        return flat[path].update(dtype=jnp.dtype(dtype)) if is_operand(path, spec) else flat[path]

    return map_table(architecture, leaf)


def shard_bytes(tree: Any) -> int:
    """Bytes of a pytree of sharded arrays on one device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        count = 1
        for size in leaf.sharding.shard_shape(leaf.shape):
            count *= size
        total += count * leaf.dtype.itemsize
    return total


def _first_line(message: str) -> str:
    found = re.search(r"Used [^.]*\.[^.]*\.[^.]*\.|Ran out of memory[^\n]*", message)
    return " ".join((found[0] if found else message.splitlines()[0]).split())
