"""Comparisons -> rewards, over the mesh: the same packed rows and the same forward pass as training, but for the last
layer, in which the tokens that no reward is read at need keys and values alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from skyrm_jax import checkpoint
from skyrm_jax.chat import Chat, Tree
from skyrm_jax.errors import UserError
from skyrm_jax.mesh import make_mesh, my_rows, replicated, row_shards, to_device
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.linear import as_bits
from skyrm_jax.models.parameters import ParameterSpec, Params, flattened, map_table
from skyrm_jax.models.reward import RewardModel
from skyrm_jax.packing import MicroBatchPlan, Pieces, RowShape, pack
from skyrm_jax.rows import assemble, leaf_slots
from skyrm_jax.tree_scorer import TreeScorer

_ROW_STEP, _MOST_STEPS = 256, 16
"""Rows are multiples of the one, up to the other; where a tree is longer, a power of two."""

_WORTH_COMPILING = 1.05
"""How many times the slots a row length may cost that was used before, before another is compiled."""


class Scorer(TreeScorer):
    """A reward model ready to score. Make one with `Scorer.load`.

    Args:
        loaded: architecture, parameters (on `mesh`) and tokenizer.
        chat: its template.
        mesh: the devices.
        max_tokens: longest conversation; longer ones lose the same prompt tokens in all responses, counted in `counts`.
        row_tokens: longest row; None: `max_tokens`.
        dtype: of matrix operands.
        attention: attention backend.
    """

    def __init__(
        self,
        loaded: checkpoint.LoadedModel,
        chat: Chat,
        mesh: Mesh,
        max_tokens: int = 16384,
        row_tokens: int | None = None,
        dtype: Literal["bfloat16", "float32"] = "bfloat16",
        attention: str = "auto",
    ):
        self.loaded = replace(loaded, params=_for_products(loaded, dtype))
        super().__init__(chat, max_tokens)
        self.mesh = mesh
        self.row_tokens = max_tokens if row_tokens is None else row_tokens
        self.dtype = dtype
        if self.row_tokens < max_tokens:
            raise UserError(f"row_tokens ({self.row_tokens}) must be at least max_tokens ({max_tokens})")
        self._batches: set[tuple[int, int]] = set()  # rows and tokens in each, of every micro-batch that was used
        self._forward = self._program(attention)

    def _program(self, attention: str) -> "Program":
        return forward_program(self.loaded.architecture, self.mesh, self.dtype, attention)

    @staticmethod
    def check(loaded: checkpoint.LoadedModel) -> None:
        """Raises UserError for a model that cannot be used for this."""
        if not loaded.params["score"].any():
            raise UserError(
                f"{loaded.source}: its reward head is zero, so every reward would be 0; "
                "train it first, or name a trained reward model"
            )

    @staticmethod
    def skipped(architecture: Architecture) -> int | None:
        """The token that is not read at the end of a conversation: the pad token, as in transformers' classifiers."""
        return architecture.pad_token_id

    @classmethod
    def load(
        cls,
        source: str,
        *,
        mesh: Mesh | None = None,
        template: str | None = None,
        max_tokens: int = 16384,
        row_tokens: int | None = None,
        dtype: Literal["bfloat16", "float32"] = "bfloat16",
        attention: str = "auto",
    ) -> Self:
        """Loads our checkpoint, a Hugging Face folder or a Hub id.

        Raises:
            UserError: nothing usable is there, its reward head was never trained, its tokenizer has more tokens than
                the model, or no chat template where `template` is not given.
        """
        mesh = make_mesh() if mesh is None else mesh
        loaded = checkpoint.load_model(source, mesh)
        cls.check(loaded)
        chat = Chat.load(loaded.tokenizer, cls.skipped(loaded.architecture), template)
        require_vocabulary(chat, loaded.architecture, "put the model's own tokenizer there")
        return cls(loaded, chat, mesh, max_tokens, row_tokens, dtype, attention)

    @property
    def manifest(self) -> dict[str, Any]:
        """Everything about this scorer that could change a number, and what it has counted so far."""
        return {
            "checkpoint": self.loaded.source,
            "step": self.loaded.meta.get("step"),
            "parameters": self.loaded.architecture.parameter_count(),
            "architecture": self.loaded.architecture.to_dict(),
            "compute_dtype": self.dtype,
            "max_tokens": self.max_tokens,
            "row_tokens": self.row_tokens,
            "batches": sorted(self._batches),
            "template_hash": self.chat.template_hash,
            "tokenizer_hash": self.chat.tokenizer_hash,
            "pad_token_id": self.chat.pad_token_id,
            "bos_token_id": self.chat.bos,
            "pooling": checkpoint.POOLING,
            "mesh": dict(self.mesh.shape),
            "platform": jax.default_backend(),
            **self.counts,
        }

    def go_on(self, batches: Sequence[Sequence[int]]) -> None:
        self._batches |= {(rows, tokens) for rows, tokens in batches}

    def score_trees(
        self, trees: Sequence[Tree], progress: Callable[[int], None] | None = None
    ) -> list[Float[np.ndarray, "K"]]:
        """Rewards of trees made by this scorer's `chat`, in order, counted; `score` for what is tokenised already."""
        if not trees:
            return []
        self.count(trees)
        pieces, plans = self._plan(trees)
        whole = {number: (tree, ()) for number, tree in enumerate(trees)}
        rewards: list[np.ndarray] = [np.empty(0, np.float32)] * len(trees)
        for plan, values in self._forward_all(pieces, whole, plans):
            flat = np.asarray(values)
            flat = flat.reshape(-1, *flat.shape[2:])
            slots = leaf_slots(plan, pieces)
            finished = {number for number, _ in slots}
            for number in finished:
                rewards[number] = np.array(
                    [flat[slots[number, leaf]] for leaf in trees[number].leaf.tolist()], np.float32
                )
            if progress is not None:
                progress(len(finished))
        return rewards

    def _plan(self, trees: Sequence[Tree]) -> tuple[Pieces, list[MicroBatchPlan]]:
        """Micro-batches of rows of the length that leaves the fewest slots empty, or nearly: a new length compiles anew."""
        longest = max(len(tree.tokens) for tree in trees)
        steps = range(-(-longest // _ROW_STEP), _MOST_STEPS + 1)
        lengths = {_power_of_two(max(longest, 2 * _ROW_STEP)), *(_ROW_STEP * step for step in steps)}
        # No length is below the longest tree, but for row_tokens, which then is the only one: all have the same pieces.
        pieces = Pieces.of(trees, [0] * len(trees), self.row_tokens)
        best: tuple[float, int, list[MicroBatchPlan]] | None = None
        for tokens in sorted({min(self.row_tokens, length) for length in lengths}):
            shape = self._shape(pieces, tokens)
            plans = list(pack(pieces, [shape], row_shards(self.mesh), self.loaded.architecture.token_cost()))
            slots = len(plans) * shape.slots * (1 if (shape.rows, tokens) in self._batches else _WORTH_COMPILING)
            if best is None or (slots, tokens) < best[:2]:
                best = slots, tokens, plans
        assert best is not None
        self._batches.add((best[2][0].shape.rows, best[1]))
        return pieces, best[2]

    def _shape(self, pieces: Pieces, tokens: int) -> RowShape:
        """The fewest rows that hold all the parts of a comparison, of `tokens` tokens."""
        shards, most = row_shards(self.mesh), int(np.max(np.bincount(pieces.comparison)))
        leaves = _power_of_two(max(tokens // 64, int(pieces.leaves.max())))
        return RowShape(rows=shards * -(-most // shards), tokens=tokens, leaves=leaves, pairs=1)

    def _forward_all(
        self, pieces: Pieces, trees: Any, plans: Sequence[MicroBatchPlan]
    ) -> Iterator[tuple[MicroBatchPlan, jax.Array]]:
        """Each micro-batch's plan and rewards; the next is already running while one is read."""
        waiting: tuple[MicroBatchPlan, jax.Array] | None = None
        mine = my_rows(self.mesh, plans[0].shape.rows)
        with jax.set_mesh(self.mesh):
            for plan in plans:
                arrays = assemble(plan, pieces, trees, mine, self.chat.pad_token_id or 0).arrays()
                now = plan, self._forward(self.loaded.params, to_device(self.mesh, arrays))
                if waiting is not None:
                    yield waiting
                waiting = now
        if waiting is not None:
            yield waiting


Program = Callable[[Params, dict[str, jax.Array]], jax.Array]
"""A jitted function of parameters and `MicroBatch.arrays`."""


def forward_program(
    architecture: Architecture,
    mesh: Mesh,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    attention: str = "auto",
    read: Callable[..., jax.Array] = RewardModel.rewards,
) -> Program:
    """The program that scores: rewards [B, S], or what else the method `read` gives, whole on every device."""

    def forward(params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        model = RewardModel(architecture, params, dtype, "none", attention)
        return read(model, batch["tokens"], batch["positions"], batch["end"], batch["reward_index"])

    return jax.jit(forward, out_shardings=replicated(mesh))


def is_operand(path: str, spec: ParameterSpec) -> bool:
    """Whether a scorer holds this parameter in the dtype in which it is multiplied; norm weights and head stay in fp32."""
    return spec.decayed and path != "score"


def _for_products(loaded: checkpoint.LoadedModel, dtype: str) -> Params:
    """The parameters with every matrix in the dtype in which it will be multiplied: half the memory of fp32, to the
    same rewards."""

    def leaf(path: str, spec: ParameterSpec) -> jax.Array:
        value = flat[path]
        if not is_operand(path, spec):
            return value
        value = value.astype(dtype)
        return as_bits(value) if path.startswith("layers.") and jax.default_backend() == "cpu" else value

    flat = flattened(loaded.params)
    return map_table(loaded.architecture, leaf)


def require_vocabulary(chat: Chat, architecture: Architecture, remedy: str) -> None:
    """Raises UserError, ending in `remedy`, if the tokenizer has ids that the model has no embedding of."""
    if len(chat.tokenizer) > architecture.vocab_size:
        raise UserError(
            f"tokenizer {chat.source} has {len(chat.tokenizer)} tokens, but the model's vocabulary is "
            f"{architecture.vocab_size}; {remedy}"
        )


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
