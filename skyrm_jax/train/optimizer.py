"""AdamW, its learning-rate schedule and gradient clipping, out of optax."""

from typing import Any

import optax

from skyrm_jax.config import OptimizerConfig
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.parameters import map_table


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up from zero to the peak, then constant, linear or cosine to `final` of it at the last step."""
    warmup = round(config.warmup * steps) if config.warmup < 1 else int(config.warmup)
    rest = max(steps - warmup, 1)
    peak, last = config.learning_rate, config.learning_rate * config.final
    after: Any = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, last, rest),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest, alpha=config.final),
    }[config.schedule]()
    if warmup == 0:
        return after
    # The first step already moves: a rate of exactly zero would waste a batch.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, after], [warmup])


def make_optimizer(config: OptimizerConfig, architecture: Architecture, steps: int) -> optax.GradientTransformation:
    """Clipping, then AdamW whose decay spares norm weights."""
    adamw = optax.adamw(
        learning_rate(config, steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=map_table(architecture, lambda _, spec: spec.decayed),
    )
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw) if config.clip > 0 else adamw
