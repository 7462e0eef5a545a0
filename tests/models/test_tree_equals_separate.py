"""The one claim everything rests on: a packed tree scores, and learns, like its conversations one by one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skyrm_jax.chat import build_tree, common_prefix
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.decoder import REMAT_POLICIES
from skyrm_jax.models.parameters import Params, initialise
from skyrm_jax.models.reward import RewardModel
from skyrm_jax.packing import Pieces, RowShape, pack
from skyrm_jax.rows import assemble, leaf_slots

QWEN = Architecture("qwen3", 100, 32, 48, 2, 4, 2, 16, True, 1e-6, Rope("default", 1e4), 512, 0, initializer_range=0.2)
LLAMA = Architecture(
    "llama",
    100,
    32,
    48,
    2,
    4,
    4,
    8,
    False,
    1e-5,
    Rope("llama3", 5e5, 8.0, 1.0, 4.0, 64),
    512,
    0,
    initializer_range=0.2,
)


def params_of(architecture: Architecture) -> Params:
    params = initialise(architecture, jax.random.key(0))
    params["score"] = jax.random.normal(jax.random.key(1), params["score"].shape)
    return params


def reward_fn(architecture: Architecture, params: Params, batch: dict[str, Any], remat: str = "full") -> jax.Array:
    model = RewardModel(architecture, params, "float32", remat)
    return model(batch["tokens"], batch["positions"], batch["end"], batch["reward_index"])


def batch_of(batch: dict[str, Any]) -> dict[str, Any]:
    """What the model reads of a batch."""
    return {name: batch[name] for name in ("tokens", "positions", "end", "reward_index")}


def separately(architecture: Architecture, params: Params, sequences: list[list[int]]) -> jax.Array:
    """Rewards of conversations in rows of their own, plain causal attention and pads after the end."""
    lengths = np.array([len(s) for s in sequences])
    tokens = np.zeros((len(sequences), lengths.max()), np.int32)
    for row, sequence in zip(tokens, sequences, strict=True):
        row[: len(sequence)] = sequence
    index = np.tile(np.arange(lengths.max()), (len(sequences), 1))
    batch = {
        "tokens": tokens,
        "positions": index,
        "end": np.full_like(tokens, lengths.max()),
        "reward_index": lengths[:, None] - 1,
    }
    return reward_fn(architecture, params, batch)[:, 0]


def comparisons(seed: int) -> list[list[list[int]]]:
    """K = 1, 2, 3, 8; a response that is a prefix of another, an empty response, equal responses, single tokens."""
    rng = np.random.default_rng(seed)

    def text(n: int) -> list[int]:
        return rng.integers(1, 100, n).tolist()

    prompt = [text(n) for n in (9, 6, 12, 4, 3)]
    long = text(8)
    return [
        [prompt[0] + text(5)],
        [prompt[1] + long, prompt[1] + long[:3]],
        [prompt[2] + text(4), prompt[2], prompt[2] + text(1)],
        [prompt[3] + text(n) for n in (1, 2, 3, 4, 5, 6, 7, 8)],
        [prompt[4] + long, prompt[4] + text(2), prompt[4] + long],
    ]


def packed(
    sequences: list[list[list[int]]], row: int | None, rows: int
) -> tuple[dict[str, Any], dict[Any, int], list[Any]]:
    trees = [build_tree(s, 0) for s in sequences]
    row = row or sum(len(t.tokens) for t in trees)  # exactly full
    shape = RowShape(rows, row, 16, 1)
    pieces = Pieces.of(trees, [0] * len(trees), row)
    (plan,) = pack(pieces, [shape])
    batch = assemble(plan, pieces, {i: (t, ()) for i, t in enumerate(trees)}, range(rows)).arrays()
    return batch, leaf_slots(plan, pieces), trees


@pytest.mark.parametrize("architecture", [QWEN, LLAMA], ids=lambda a: a.model_type)
@pytest.mark.parametrize(("row", "rows"), [(160, 1), (64, 3), (None, 1)], ids=["one row", "three rows", "a full row"])
def test_rewards_and_gradients(architecture: Architecture, row: int | None, rows: int) -> None:
    params, sequences = params_of(architecture), comparisons(0)
    batch, slots, trees = packed(sequences, row, rows)
    assert (batch["tokens"] != 0).all() == (row is None)
    rng = np.random.default_rng(1)
    coefficients = [rng.normal(size=len(s)) for s in sequences]

    def together(params: Params) -> tuple[jax.Array, list[jax.Array]]:
        flat = reward_fn(architecture, params, batch).reshape(-1)
        rewards = [flat[jnp.array([slots[i, int(leaf)] for leaf in t.leaf])] for i, t in enumerate(trees)]
        return sum((r * c).sum() for r, c in zip(rewards, coefficients, strict=True)), rewards

    def apart(params: Params) -> tuple[jax.Array, list[jax.Array]]:
        rewards = separately(architecture, params, [s for group in sequences for s in group])
        return (rewards * np.concatenate(coefficients)).sum(), rewards

    (_, mine), my_gradients = jax.jit(jax.value_and_grad(together, has_aux=True))(params)
    (_, theirs), their_gradients = jax.jit(jax.value_and_grad(apart, has_aux=True))(params)
    for a, b in zip(jnp.concatenate(mine), theirs, strict=True):
        assert abs(a - b) <= 1e-5 * max(1.0, abs(b))
    assert mine[4][0] == mine[4][2], "equal responses must have exactly equal rewards"
    scored = jax.jit(lambda params: RewardModel(architecture, params, "float32").rewards(**batch_of(batch)))(params)
    flat = np.asarray(scored).reshape(-1)
    for tree, i, wanted in zip(trees, range(len(trees)), mine, strict=True):
        found = np.array([flat[slots[i, int(leaf)]] for leaf in tree.leaf])
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    for a, b in zip(jax.tree.leaves(my_gradients), jax.tree.leaves(their_gradients), strict=True):
        assert jnp.linalg.norm(a - b) <= 1e-4 * jnp.linalg.norm(b)


def test_a_row_exactly_full() -> None:
    params = params_of(QWEN)
    sequences = [[[*range(1, 21), 30 + k, 40 + k] for k in range(4)]]
    batch, slots, _ = packed(sequences, None, 1)
    assert (batch["tokens"] != 0).all()
    rewards = jax.jit(lambda b: reward_fn(QWEN, params, b))(batch).reshape(-1)
    alone = jax.jit(lambda: separately(QWEN, params, sequences[0]))()
    for k in range(4):
        assert abs(rewards[slots[0, k]] - alone[k]) <= 1e-5 * max(1.0, abs(alone[k]))


@pytest.mark.parametrize("architecture", [QWEN, LLAMA], ids=lambda a: a.model_type)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", [RewardModel.__call__, RewardModel.rewards], ids=["training", "scoring"])
def test_no_response_moves_another_by_a_single_bit(architecture: Architecture, dtype: str, method: Any) -> None:
    """Every token that is one response's own, changed by itself; the layout stays."""
    params = params_of(architecture)

    @jax.jit
    def score(batch: dict[str, Any]) -> jax.Array:
        return method(RewardModel(architecture, params, dtype), **batch_of(batch))

    batch, slots, trees = packed(comparisons(0), 160, 1)
    before, changes = np.asarray(score(batch)).reshape(-1), 0
    for i, (group, tree) in enumerate(zip(comparisons(0), trees, strict=True)):
        own = len(tree.reward_index) > 1 and common_prefix([np.array(s) for s in group])
        for leaf in np.flatnonzero(np.bincount(tree.leaf) == 1).tolist():
            response = tree.leaf.tolist().index(leaf)
            for at in range(own, len(group[response])):
                sequences = comparisons(0)
                # A token that no other response has, so that none becomes alike or shares more.
                sequences[i][response][at] = min(set(range(1, 100)).difference(*group))
                batch, same, _ = packed(sequences, 160, 1)
                assert same == slots
                after = np.asarray(score(batch)).reshape(-1)
                assert {key for key, slot in slots.items() if before[slot] != after[slot]} == {(i, leaf)}
                changes += 1
    assert changes > 50


def test_remat_changes_nothing() -> None:
    params = params_of(QWEN)
    batch, _, _ = packed(comparisons(0), 160, 1)
    gradients = [
        jax.jit(jax.grad(lambda p, r=remat: (reward_fn(QWEN, p, batch, r) ** 2).sum()))(params)
        for remat in REMAT_POLICIES
    ]
    for others in gradients[1:]:
        for a, b in zip(*map(jax.tree.leaves, (others, gradients[0])), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * float(jnp.abs(b).max()))
