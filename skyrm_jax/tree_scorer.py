"""Comparisons -> trees -> rewards: what every way of making rewards has in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float

from skyrm_jax.chat import Chat, OverLong, Tree
from skyrm_jax.comparison import Comparison, Message, messages
from skyrm_jax.errors import RecordError, UserError

WINDOW = 1024
"""Comparisons tokenised and packed together."""


class TreeScorer(ABC):
    """Gives rewards to the leaves of trees.

    Args:
        chat: makes the trees.
        max_tokens: longest conversation; longer ones lose the same prompt tokens in all responses.

    Attributes:
        counts: what has been scored so far.
        pinned: whether scorers with the same manifest are the same model.
    """

    pinned = True

    def __init__(self, chat: Chat, max_tokens: int) -> None:
        if max_tokens < 2:
            raise UserError(f"max_tokens must be at least 2: {max_tokens}")
        self.chat, self.max_tokens = chat, max_tokens
        self.counts = {"comparisons": 0, "responses": 0, "truncated": 0, "tokens": 0, "unshared_tokens": 0}

    @property
    @abstractmethod
    def manifest(self) -> dict[str, Any]:
        """Everything about this scorer that could change a number, and what it has counted so far."""

    @abstractmethod
    def score_trees(
        self, trees: Sequence[Tree], progress: Callable[[int], None] | None = None
    ) -> list[Float[np.ndarray, "K"]]:
        """Rewards of trees made by this scorer's `chat`, in order, counted; `score` for what is tokenised already."""

    def score(
        self, comparisons: Iterable[Comparison], progress: Callable[[int], None] | None = None
    ) -> list[Float[np.ndarray, "K"]]:
        """Rewards in fp32 of every response of every comparison, in order.

        Args:
            comparisons: anything iterable; read `WINDOW` at a time.
            progress: called with the number of comparisons finished since the last call.

        Raises:
            RecordError: one of them, named by its number from 0, cannot be scored: see `require_scorable`, or its
                conversations cannot be rendered or tokenised.
        """
        if not isinstance(comparisons, Iterable):
            raise UserError(
                f"score takes a list of comparisons, not one {type(comparisons).__name__}: put it in a list"
            )
        rewards: list[np.ndarray] = []
        source = iter(comparisons)
        while window := list(islice(source, WINDOW)):
            trees: list[Tree] = []
            for comparison, tree in zip(window, self.trees(window), strict=True):
                if isinstance(tree, RecordError):
                    name = f"comparison {len(rewards) + len(trees)}"
                    if isinstance(comparison, Comparison) and comparison.id:
                        name += f", {comparison.id!r}"
                    detail = f"{name}: {tree.detail}" if tree.detail else name
                    raise RecordError(tree.field, tree.reason, tree.remedy, detail)
                trees.append(tree)
            rewards.extend(self.score_trees(trees, progress))
        return rewards

    def trees(self, comparisons: Sequence[Comparison]) -> list[Tree | RecordError]:
        """For each comparison its tree, cut to `max_tokens`, or the error that keeps it from having one."""
        found: dict[int, Tree | RecordError] = {}
        for number, comparison in enumerate(comparisons):
            try:
                require_scorable(comparison)
            except RecordError as error:
                found[number] = error
        sound = [number for number in range(len(comparisons)) if number not in found]
        trees = self.chat.trees([comparisons[number] for number in sound], self.max_tokens, "truncate_left")
        for number, tree in zip(sound, trees, strict=True):
            if isinstance(tree, OverLong):
                # The prompt is too short to give enough: cut the ends, rather than drop the comparison.
                tree = self.chat.trees([comparisons[number]], self.max_tokens, "truncate_right")[0]
            found[number] = tree
        return [found[number] for number in range(len(comparisons))]

    def go_on(self, batches: Sequence[Sequence[int]]) -> None:  # noqa: B027 - nothing to do but for those that pack
        """Scores on as if this scorer, and not an earlier one, had used these batches, as its manifest gives them."""

    def count(self, trees: Sequence[Tree]) -> None:
        """Adds trees to `counts`."""
        for tree in trees:
            self.counts["comparisons"] += 1
            self.counts["responses"] += len(tree.leaf)
            self.counts["truncated"] += tree.truncated > 0
            self.counts["tokens"] += len(tree.tokens)
            self.counts["unshared_tokens"] += tree.conversation_tokens


def require_scorable(comparison: Any) -> None:
    """Raises RecordError for what is not a comparison, holds no messages where they belong, or fails its `check`."""
    remedy = "make it with Comparison.of"
    if not isinstance(comparison, Comparison):
        raise RecordError("record", "is not a Comparison", remedy, type(comparison).__name__)
    if not isinstance(comparison.responses, list | tuple):
        raise RecordError("responses", "is not a list", remedy, type(comparison.responses).__name__)
    for field, turns in [
        ("prompt", comparison.prompt),
        *((f"responses[{k}]", r) for k, r in enumerate(comparison.responses)),
    ]:
        if not isinstance(turns, tuple) or not all(isinstance(message, Message) for message in turns):
            raise RecordError(field, "is not a tuple of messages", remedy, f"{turns!r:.80}")
        messages(field, turns, "user")
    comparison.check(training=False)
