"""The held-out comparisons of a tokenised store: exactly the trees that training put aside."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyrm_jax.chat import Tree
from skyrm_jax.comparison import Comparison
from skyrm_jax.data.store import Store
from skyrm_jax.errors import UserError

if TYPE_CHECKING:
    from skyrm_jax.tree_scorer import TreeScorer


@dataclass(frozen=True)
class HeldOut:
    """The held-out comparisons of a store. They have no text, which a store does not keep, but all else."""

    store: Store
    comparisons: list[Comparison]
    trees: list[Tree]

    @classmethod
    def read(cls, directory: str | os.PathLike[str]) -> "HeldOut":
        """Raises UserError if there is no store, or nothing in it is held out."""
        store = Store.open(directory)
        ids = store.index.held_out.astype(np.int64)
        if not len(ids):
            raise UserError(f"{directory}: the store holds no comparison out: prepare it with held_out above 0")
        stored = store.read(ids)
        comparisons = [
            Comparison((), ((),) * len(s.tree.leaf), s.preferences, s.id, store.sources[source], s.category)
            for s, source in zip(stored, store.index.source(ids).tolist(), strict=True)
        ]
        return cls(store, comparisons, [s.tree for s in stored])

    def check(self, scorer: "TreeScorer") -> None:
        """Raises UserError unless the scorer would tokenise and read conversations as the store did."""
        self.store.require(scorer.manifest, "checkpoint", "prepare a store for this checkpoint, or give the text files")
        longest = max(tree.longest for tree in self.trees)
        if longest > scorer.max_tokens:
            raise UserError(
                f"{self.store.directory}: holds a conversation of {longest} tokens: give --max-tokens {longest} or more"
            )
