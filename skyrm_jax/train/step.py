"""The compiled programs of a training step.

A step is as many micro-batches as its batch needs: `first` and `add` accumulate gradients in fp32, `update` applies
them. The divisor is known from the schedule before the step, so how a batch is cut cannot change its loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from skyrm_jax.config import ModelConfig
from skyrm_jax.mesh import replicated
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.embedding import add_rows
from skyrm_jax.models.parameters import Params, abstract, shardings
from skyrm_jax.models.reward import RewardModel
from skyrm_jax.train.compiler import compiler_options
from skyrm_jax.train.loss import Metrics, bradley_terry


class TrainState(NamedTuple):
    """What an update changes; all of it fp32."""

    params: Params
    moments: optax.OptState


class Accumulated(NamedTuple):
    """Sums over the micro-batches of a step so far."""

    gradients: Params
    loss: Float[Array, ""]
    metrics: Metrics


@dataclass(frozen=True)
class StepPrograms:
    """The jitted functions of a run; a micro-batch is the dict of `MicroBatch.arrays`, spread over the mesh by row."""

    first: Callable[[Params, dict[str, Array], Array], Accumulated]
    add: Callable[[Accumulated, Params, dict[str, Array], Array], Accumulated]
    update: Callable[[TrainState, Accumulated], tuple[TrainState, Metrics]]
    evaluate: Callable[[Params, dict[str, Array]], tuple[Array, Metrics]]


def step_programs(
    architecture: Architecture, config: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> StepPrograms:
    """Builds the programs; they compile at first use."""
    sharded, whole = shardings(architecture, mesh), replicated(mesh)

    def loss(
        layers: Params, embedded: Array, embed: Array, batch: dict[str, Array], divisor: Any, sums: Params | None = None
    ) -> tuple[Array, Metrics]:
        params = {**layers, "embed": embed}
        model = RewardModel(architecture, params, config.compute_dtype, config.remat, config.attention)
        rewards = model.of_embedded(embedded, batch["positions"], batch["end"], batch["reward_index"], sums)
        total, metrics = bradley_terry(rewards, batch)
        return total / divisor, metrics

    differentiate = jax.value_and_grad(loss, (0, 1), has_aux=True)

    def parts(params: Params, batch: dict[str, Array]) -> tuple[Params, Array, Array]:
        """All parameters but the embedding, the embeddings of the tokens, and the embedding."""
        layers = {name: value for name, value in params.items() if name != "embed"}
        return layers, params["embed"][batch["tokens"]], params["embed"]

    def onto(
        embed: Array, layers: Params | None, params: Params, batch: dict[str, Array], divisor: Array
    ) -> Accumulated:
        """Of one micro-batch; but the gradients of the embedding and, where given, of the layers are added to these.

        The embedding's are added token by token, and so never a table of their own, which at 150,000 tokens would cost
        more than a layer; the layers' likewise layer by layer.
        """
        (value, metrics), (gradients, rows) = differentiate(*parts(params, batch), batch, divisor, layers)
        return Accumulated({**gradients, "embed": add_rows(embed, batch["tokens"], rows)}, value, metrics)

    def first(params: Params, batch: dict[str, Array], divisor: Array) -> Accumulated:
        return onto(jnp.zeros_like(params["embed"]), None, params, batch, divisor)

    def add(sums: Accumulated, params: Params, batch: dict[str, Array], divisor: Array) -> Accumulated:
        so_far = sums.gradients
        in_place = ("embed", "layers") if config.remat == "full" else ("embed",)
        more = onto(so_far["embed"], so_far["layers"] if "layers" in in_place else None, params, batch, divisor)
        total = jax.tree.map(jnp.add, sums, more)
        return total._replace(gradients={**total.gradients, **{name: more.gradients[name] for name in in_place}})

    def update(state: TrainState, sums: Accumulated) -> tuple[TrainState, Metrics]:
        updates, moments = optimizer.update(sums.gradients, state.moments, state.params)
        norm = optax.tree.norm(sums.gradients)
        finite = jnp.isfinite(sums.loss) & jnp.isfinite(norm)
        new = TrainState(optax.apply_updates(state.params, updates), moments)
        # What is not finite changes nothing: neither parameters nor moments nor the optimiser's count of steps.
        kept = jax.tree.map(partial(jnp.where, finite), new, state)
        return kept, {**sums.metrics, "loss": sums.loss, "gradient_norm": norm, "finite": finite}

    def evaluate(params: Params, batch: dict[str, Array]) -> tuple[Array, Metrics]:
        return loss(*parts(params, batch), batch, 1.0)

    sums: Any = Accumulated(sharded, whole, whole)  # type: ignore[arg-type]
    state: Any = TrainState(sharded, moment_shardings(optimizer, architecture, mesh))
    jit = partial(jax.jit, compiler_options=compiler_options(mesh))
    return StepPrograms(
        first=jit(first, out_shardings=sums),
        add=jit(add, donate_argnums=0, out_shardings=sums),
        update=jit(update, donate_argnums=0, out_shardings=(state, whole)),
        evaluate=jit(evaluate, out_shardings=whole),
    )


def abstract_moments(optimizer: optax.GradientTransformation, architecture: Architecture, mesh: Mesh) -> Any:
    """Shapes, dtypes and shardings of the optimiser state."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(optimizer.init, abstract(architecture, mesh)),
        moment_shardings(optimizer, architecture, mesh),
    )


def moment_shardings(optimizer: optax.GradientTransformation, architecture: Architecture, mesh: Mesh) -> Any:
    """Shardings of the optimiser state: moments like their parameters, counters on every device."""
    parameters = abstract(architecture, mesh)
    like = shardings(architecture, mesh)
    structure: Any = jax.tree.structure(parameters)
    state = jax.eval_shape(optimizer.init, parameters)

    def is_parameter_tree(node: Any) -> bool:
        return jax.tree.structure(node) == structure

    return jax.tree.map(
        lambda node: like if is_parameter_tree(node) else replicated(mesh), state, is_leaf=is_parameter_tree
    )
