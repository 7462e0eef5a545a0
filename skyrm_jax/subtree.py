"""Parts of trees: what is done with one that is longer than a row."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from skyrm_jax.chat import Tree
from skyrm_jax.errors import UserError


def leaf_paths(tree: Tree) -> list[Bool[np.ndarray, "n"]]:
    """For each leaf, the tokens that its reward depends on: the ancestors {k: k <= i < end[k]} of its pooled token i."""
    index = np.arange(len(tree.tokens))
    return [(index <= pooled) & (pooled < tree.end) for pooled in tree.reward_index]


def cut(tree: Tree, row_tokens: int) -> list[list[int]]:
    """The leaves of `tree` in groups whose sub-trees each fit a row: all if they do, else longest first into the first that
    takes them.

    Raises:
        UserError: one conversation alone is longer than a row.
    """
    if len(tree.tokens) <= row_tokens:
        return [list(range(len(tree.reward_index)))]
    paths = leaf_paths(tree)
    lengths = np.array([path.sum() for path in paths])
    groups: list[list[int]] = []
    used: list[Bool[np.ndarray, n]] = []
    for leaf in np.argsort(-lengths, kind="stable").tolist():
        if lengths[leaf] > row_tokens:
            raise UserError(
                f"a conversation of {lengths[leaf]} tokens does not fit a row of {row_tokens}; "
                "raise data.row_tokens to at least data.max_tokens"
            )
        for number, tokens in enumerate(used):
            if (tokens | paths[leaf]).sum() <= row_tokens:
                used[number] = tokens | paths[leaf]
                groups[number] = sorted([*groups[number], leaf])
                break
        else:
            groups.append([leaf])
            used.append(paths[leaf])
    return groups


def subtree(tree: Tree, leaves: Sequence[int]) -> Tree:
    """The part of `tree` that these leaves need; leaf i of the result is leaf `leaves[i]` of the tree."""
    paths = leaf_paths(tree)
    keep = np.any([paths[leaf] for leaf in leaves], axis=0)
    # before[i] = kept tokens left of i: both the new index of a kept token and the new end of a subtree.
    before = np.concatenate([[0], np.cumsum(keep)]).astype(np.int32)
    return Tree(
        tokens=tree.tokens[keep],
        end=before[tree.end[keep]],
        positions=tree.positions[keep],
        reward_index=before[tree.reward_index[np.asarray(leaves)]],
        leaf=np.arange(len(leaves), dtype=np.int32),
        conversation_tokens=int(sum(paths[leaf].sum() for leaf in leaves)),
        truncated=tree.truncated,
    )
