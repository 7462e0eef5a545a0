"""Comparisons -> vectors, for finding similar ones: the hidden states of their last tokens."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from skyrm_jax import checkpoint
from skyrm_jax.chat import Tree
from skyrm_jax.comparison import Comparison
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.reward import RewardModel
from skyrm_jax.scorer import Program, Scorer, forward_program


class Embedder(Scorer):
    """A decoder ready to embed: a reward model, a causal LM, or a Qwen3-Embedding model. Make one with `Embedder.load`.

    A conversation's vector is the final hidden state of its last token, scaled to length 1. Qwen3-Embedding models
    want `template="qwen3-embedding"`, which ends a text with the token that they are trained to be read at.
    """

    @staticmethod
    def check(loaded: checkpoint.LoadedModel) -> None:
        """Any model will do: the head is not used."""

    @staticmethod
    def skipped(architecture: Architecture) -> None:
        """None: embedding models pool the last token, which in Qwen3-Embedding is the pad token."""

    def _program(self, attention: str) -> Program:
        read = RewardModel.hidden_states
        return forward_program(self.loaded.architecture, self.mesh, self.dtype, attention, read)

    @property
    def dimensions(self) -> int:
        """Of the vectors."""
        return self.loaded.architecture.hidden

    def score_trees(
        self, trees: Sequence[Tree], progress: Callable[[int], None] | None = None
    ) -> list[Float[np.ndarray, "K D"]]:
        """Vectors of length 1 for the responses of trees made by this embedder's `chat`."""
        return [unit(vectors) for vectors in super().score_trees(trees, progress)]

    def embed(
        self, comparisons: Iterable[Comparison], progress: Callable[[int], None] | None = None
    ) -> Float[np.ndarray, "n D"]:
        """One vector of length 1 for each comparison: the direction of the sum over its responses.

        So it is the same whichever response is preferred or comes first. Raises as `Scorer.score` does.
        """
        vectors = [of.sum(0) for of in self.score(comparisons, progress)]
        return unit(np.stack(vectors)) if vectors else np.empty((0, self.dimensions), np.float32)


def unit(vectors: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
    """Scaled to length 1; a zero vector stays zero."""
    lengths: Any = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
