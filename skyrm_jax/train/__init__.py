"""Bradley-Terry training. `run` is what the command, and the curation pipeline, call."""

from skyrm_jax.train.loop import Result, run

__all__ = ["Result", "run"]
