"""`skyrm prepare`: preference files -> tokenised store, with an account of every record."""

from skyrm_jax.prepare.options import PrepareOptions
from skyrm_jax.prepare.run import prepare

__all__ = ["PrepareOptions", "prepare"]
