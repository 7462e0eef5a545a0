"""RoPE in `config.json` as three readers understand it.

transformers 4 reads `rope_theta` and `rope_scaling`; it does not know `rope_parameters`, and without `rope_theta` takes
theta 10,000 and says nothing. transformers 5 takes `rope_scaling` if there is one, else `rope_parameters`, and the theta
inside it before the one beside it (`RotaryEmbeddingConfigMixin.convert_rope_params_to_dict`).
"""

from collections.abc import Mapping
from typing import Any

from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Rope, read_rope


def by_reader(config: Mapping[str, Any]) -> dict[str, Rope | str]:
    """The RoPE that each reader makes of a config.json, or its refusal in words."""
    theta, scaling = config.get("rope_theta"), config.get("rope_scaling") or {}
    without_theta = {key: value for key, value in scaling.items() if key != "rope_theta"}
    merged = dict(scaling or config.get("rope_parameters") or {})
    merged.setdefault("rope_theta", theta)
    return {
        "skyrm_jax": _read(config),
        "transformers 4": _read({"rope_theta": theta, "rope_scaling": without_theta}),
        "transformers 5": _read({"rope_parameters": merged}),
    }


def _read(config: Mapping[str, Any]) -> Rope | str:
    try:
        return read_rope(config)
    except UserError as error:
        return f"refused: {error}"


def describe(rope: Rope | str) -> str:
    """In a few words."""
    if isinstance(rope, str):
        return rope
    if rope.kind == "default":
        return f"theta {rope.theta:,.10g}"
    return (
        f"theta {rope.theta:,.10g}, {rope.kind} x{rope.factor:g} "
        f"({rope.low_freq_factor:g}, {rope.high_freq_factor:g}, {rope.original_max_positions})"
    )
