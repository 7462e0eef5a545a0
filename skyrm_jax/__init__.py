"""Bradley-Terry reward models in JAX: the Skywork-Reward-V2 system, open.

The public surface is small: a `Comparison` (one prompt, K responses) is what everything takes and returns, and a
`Scorer` turns comparisons into rewards. Everything else is a command: see `skyrm --help`.
"""

from typing import TYPE_CHECKING, Any

from skyrm_jax.comparison import Comparison, Message, Preference

if TYPE_CHECKING:
    from skyrm_jax.scorer import Scorer

__version__ = "0.1.0"
__all__ = ["Comparison", "Message", "Preference", "Scorer", "__version__"]


def __getattr__(name: str) -> Any:
    # The scorer imports JAX, which takes seconds: only those who ask for it pay.
    if name == "Scorer":
        from skyrm_jax.scorer import Scorer

        return Scorer
    raise AttributeError(f"module 'skyrm_jax' has no attribute {name!r}")
