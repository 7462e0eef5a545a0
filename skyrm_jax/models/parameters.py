"""The abstract parameter tree: for each parameter its shape, logical axes and initialiser.

Initialisation, sharding, restore, conversion and ahead-of-time compilation all read this one table.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jaxtyping import PRNGKeyArray

from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.sharding import partition

Params = dict[str, Any]
"""Nested dict of arrays: the layout of `parameter_table`, dots being levels."""

NORMAL, ONES, ZEROS = "normal", "ones", "zeros"


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter. Layers are stacked on axis 0; matrices are [in, out]."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    initialiser: str = NORMAL

    @property
    def decayed(self) -> bool:
        """Weight decay applies to matrices, not to norm weights."""
        return self.initialiser != ONES


def parameter_table(a: Architecture) -> dict[str, ParameterSpec]:
    """Every parameter of a reward model of architecture `a`, by dotted path."""
    L, D, F, V = a.layers, a.hidden, a.mlp, a.vocab_size
    q, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    table = {
        "embed": ParameterSpec((V, D), ("vocab", "embedding")),
        "layers.attention_norm": ParameterSpec((L, D), ("layers", "norm"), ONES),
        "layers.q": ParameterSpec((L, D, q), ("layers", "hidden", "heads")),
        "layers.k": ParameterSpec((L, D, kv), ("layers", "hidden", "heads")),
        "layers.v": ParameterSpec((L, D, kv), ("layers", "hidden", "heads")),
        "layers.o": ParameterSpec((L, q, D), ("layers", "heads", "hidden")),
        "layers.mlp_norm": ParameterSpec((L, D), ("layers", "norm"), ONES),
        "layers.gate": ParameterSpec((L, D, F), ("layers", "hidden", "mlp")),
        "layers.up": ParameterSpec((L, D, F), ("layers", "hidden", "mlp")),
        "layers.down": ParameterSpec((L, F, D), ("layers", "mlp", "hidden")),
        "final_norm": ParameterSpec((D,), ("norm",), ONES),
        # A zero head starts the Bradley-Terry loss at exactly ln 2.
        "score": ParameterSpec((D, 1), ("norm", "reward"), ZEROS),
    }
    if a.qk_norm:
        table["layers.q_norm"] = ParameterSpec((L, a.head_dim), ("layers", "head_dim"), ONES)
        table["layers.k_norm"] = ParameterSpec((L, a.head_dim), ("layers", "head_dim"), ONES)
    return table


def nested(flat: dict[str, Any]) -> Params:
    """{'a.b': x} -> {'a': {'b': x}}, keys sorted so that equal tables give equal trees."""
    tree: Params = {}
    for path in sorted(flat):
        *parents, name = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = flat[path]
    return tree


def flattened(tree: Params, prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': x}} -> {'a.b': x}, the inverse of `nested`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat.update(flattened(value, path + ".") if isinstance(value, dict) else {path: value})
    return flat


def map_table(architecture: Architecture, function: Callable[[str, ParameterSpec], Any]) -> Params:
    """A parameter-shaped tree of function(path, spec)."""
    return nested({path: function(path, spec) for path, spec in parameter_table(architecture).items()})


def shardings(architecture: Architecture, mesh: Mesh) -> Params:
    """NamedSharding of every parameter.

    Raises:
        UserError: a mesh axis does not divide what it is to split.
    """

    def leaf(path: str, spec: ParameterSpec) -> NamedSharding:
        sharding = NamedSharding(mesh, partition(spec.axes))
        for axis, size, names in zip(spec.axes, spec.shape, sharding.spec, strict=True):
            names = names if isinstance(names, tuple) else (names,)
            ways = math.prod(mesh.shape[name] for name in names if name is not None)
            if size % ways:
                raise UserError(
                    f"mesh {dict(mesh.shape)} splits the {axis} dimension of {path} {ways} ways, "
                    f"which does not divide its {size}; choose other mesh sizes"
                )
        return sharding

    if architecture.kv_heads % mesh.shape["model"]:
        raise UserError(
            f"mesh.model = {mesh.shape['model']} does not divide the model's {architecture.kv_heads} kv heads"
        )
    return map_table(architecture, leaf)


def abstract(architecture: Architecture, mesh: Mesh | None = None, dtype: Any = jnp.float32) -> Params:
    """ShapeDtypeStruct of every parameter, sharded over `mesh` when one is given."""

    if mesh is None:
        return map_table(architecture, lambda _, spec: jax.ShapeDtypeStruct(spec.shape, dtype))
    split = shardings(architecture, mesh)
    return jax.tree.map(
        lambda spec, sharding: jax.ShapeDtypeStruct(spec.shape, dtype, sharding=sharding),
        map_table(architecture, lambda _, spec: spec),
        split,
    )


def initialise(architecture: Architecture, key: PRNGKeyArray, dtype: Any = jnp.float32) -> Params:
    """Fresh parameters: normal of the config's `initializer_range`, norms one, head zero."""
    table = parameter_table(architecture)
    keys = dict(zip(sorted(table), jax.random.split(key, len(table)), strict=True))

    def leaf(path: str, spec: ParameterSpec) -> jax.Array:
        if spec.initialiser == ONES:
            return jnp.ones(spec.shape, dtype)
        if spec.initialiser == ZEROS:
            return jnp.zeros(spec.shape, dtype)
        return architecture.initializer_range * jax.random.normal(keys[path], spec.shape, dtype)

    return map_table(architecture, leaf)
