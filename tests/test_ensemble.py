"""Several models' rewards as one."""

import numpy as np
import pytest

from skyrm_jax.ensemble import combiner
from skyrm_jax.errors import UserError

MEMBERS = [np.array([1.0, 4.0], np.float32), np.array([3.0, 4.0], np.float32), np.array([5.0, -2.0], np.float32)]


@pytest.mark.parametrize(
    ("rule", "k", "expected"),
    [("mean", 1, [3, 2]), ("min", 1, [1, -2]), ("mean-std", 2, [3 - 2 * np.sqrt(8 / 3), 2 - 2 * np.sqrt(8)])],
)
def test_rules(rule: str, k: float, expected: list[float]) -> None:
    combined = combiner(rule, k)(MEMBERS)
    assert combined.dtype == np.float32
    np.testing.assert_allclose(combined, expected, rtol=1e-6)


def test_equal_responses_stay_equal() -> None:
    for rule in ("mean", "min", "mean-std"):
        one, other = combiner(rule)([np.full(2, value, np.float32) for value in (0.1, 0.7, -3.3)])
        assert one == other


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UserError, match="no ensemble rule 'median'"):
        combiner("median")
    with pytest.raises(UserError, match="may not reward disagreement"):
        combiner("mean-std", -1.0)
    for rule in ("mean", "min"):
        with pytest.raises(UserError, match="k is of the rule mean-std"):
            combiner(rule, 0.5)
