"""RoPE in `config.json` as three readers understand it.

transformers 4 reads `rope_theta` and `rope_scaling`; it does not know `rope_parameters`, and without `rope_theta` takes
theta 10,000 and says nothing. transformers 5 takes `rope_scaling` if there is one, else `rope_parameters`, and the theta
inside it before the one beside it (`RotaryEmbeddingConfigMixin.convert_rope_params_to_dict`). Neither takes a default for
a theta that is null: both fail when they build the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Rope, read_rope

DEFAULT_THETA = 10_000.0
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
"""Settings of llama3 scaling, in the order of Rope's fields."""


@dataclass(frozen=True)
class Foreign:
    """RoPE of a kind that this package does not implement, its settings as they are written."""

    kind: str
    theta: float
    settings: dict[str, Any]


Reading = Rope | Foreign | str
"""What a reader makes of a config.json; its failure in words."""


def by_reader(config: Mapping[str, Any]) -> dict[str, Reading]:
    """What each reader makes of a config.json, however malformed."""
    theta, old = config.get("rope_theta", DEFAULT_THETA), config.get("rope_scaling")
    return {
        "skyrm_jax": _ours(config),
        "transformers 4": _transformers4(theta, old),
        "transformers 5": _transformers5(theta, old or config.get("rope_parameters") or {}),
    }


def _ours(config: Mapping[str, Any]) -> Reading:
    try:
        return read_rope(config)
    except UserError as error:
        return f"refused: {error}"


def _transformers4(theta: Any, scaling: Any) -> Reading:
    if scaling is None:
        return _computed("default", theta, {})
    if not isinstance(scaling, Mapping):
        return f"fails on rope_scaling {scaling!r}"
    return _computed(scaling.get("type", scaling.get("rope_type")), theta, scaling)


def _transformers5(theta: Any, settings: Any) -> Reading:
    if not isinstance(settings, Mapping):
        return f"fails on {settings!r} for RoPE's settings"
    kind = settings.get("rope_type", settings.get("type", "default"))
    return _computed(kind, settings.get("rope_theta", theta), settings)


def _computed(kind: Any, theta: Any, settings: Mapping[str, Any]) -> Reading:
    """What transformers computes from these; settings that mean nothing to the kind are ignored."""
    if not isinstance(kind, str):
        return f"fails on rope_type {kind!r}"
    if isinstance(theta, bool) or not isinstance(theta, int | float):
        return f"fails on rope_theta {theta!r}"
    if kind not in ("default", "llama3"):
        others = {key: value for key, value in settings.items() if key not in ("type", "rope_type", "rope_theta")}
        return Foreign(kind, theta, others)
    wanted = LLAMA3 if kind == "llama3" else ()
    missing = [key for key in wanted if key not in settings]
    if missing:
        return f"fails on {kind} without {', '.join(missing)}"
    try:
        return Rope(kind, theta, *(settings[key] for key in wanted))  # type: ignore[arg-type]
    except UserError as error:
        return f"nonsense: {error}"


def describe(reading: Reading) -> str:
    """In a few words."""
    if isinstance(reading, str):
        return reading
    theta = f"theta {reading.theta:,.10g}"
    if isinstance(reading, Foreign):
        settings = ", ".join(f"{key} {value}" for key, value in reading.settings.items())
        return f"{theta}, {reading.kind} ({settings})"
    if reading.kind == "default":
        return theta
    return (
        f"{theta}, {reading.kind} x{reading.factor:g} "
        f"({reading.low_freq_factor:g}, {reading.high_freq_factor:g}, {reading.original_max_positions})"
    )
