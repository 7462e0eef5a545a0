"""Learning-rate schedules, clipping and the decay mask."""

import jax.numpy as jnp
import numpy as np
import pytest

from skyrm_jax.config import OptimizerConfig
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.parameters import map_table
from skyrm_jax.train.optimizer import learning_rate, make_optimizer

SMALL = Architecture("llama", 8, 4, 4, 1, 1, 1, 4, False, 1e-5, Rope(), 16, 0)


def rates(**options: object) -> np.ndarray:
    schedule = learning_rate(OptimizerConfig(learning_rate=1.0, **options), 100)  # type: ignore[arg-type]
    return np.array([float(schedule(step)) for step in range(100)])


def test_warm_up_rises_linearly_and_never_wastes_a_step() -> None:
    values = rates(schedule="constant", warmup=0.1)
    np.testing.assert_allclose(values[:10], np.arange(1, 11) / 11, rtol=1e-5)
    np.testing.assert_allclose(values[10:], 1.0)
    assert rates(schedule="constant", warmup=5)[4] < 1.0 == rates(schedule="constant", warmup=5)[5]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_decay_ends_at_the_final_share(name: str) -> None:
    values = rates(schedule=name, warmup=0.1, final=0.2)
    assert values[10] == pytest.approx(1.0) and values[99] == pytest.approx(0.2, abs=0.01)
    assert (np.diff(values[10:]) < 0).all()
    middle = 0.6
    assert values[55] == pytest.approx(middle, abs=1e-5)
    if name == "linear":
        np.testing.assert_allclose(np.diff(values[10:]), -0.8 / 90, rtol=1e-2)


def test_decay_spares_norm_weights_and_clipping_bounds_the_step() -> None:
    config = OptimizerConfig(learning_rate=0.1, schedule="constant", warmup=0, weight_decay=0.5, clip=1.0)
    optimizer = make_optimizer(config, SMALL, 10)
    params = map_table(SMALL, lambda _, spec: jnp.ones(spec.shape))
    still = map_table(SMALL, lambda _, spec: jnp.zeros(spec.shape))
    updates, _ = optimizer.update(still, optimizer.init(params), params)
    assert float(jnp.abs(updates["final_norm"]).max()) == 0.0
    np.testing.assert_allclose(updates["layers"]["q"], -0.05, rtol=1e-5)
    # Adam is scale-free, so clipping shows in the first moment.
    large = map_table(SMALL, lambda _, spec: jnp.full(spec.shape, 100.0))
    _, state = optimizer.update(large, optimizer.init(params), params)
    moments = state[1][0].mu
    total = sum(float((m**2).sum()) for m in (moments["embed"], moments["score"], *moments["layers"].values()))
    total += float((moments["final_norm"] ** 2).sum())
    assert total**0.5 == pytest.approx(0.1, rel=1e-4)
