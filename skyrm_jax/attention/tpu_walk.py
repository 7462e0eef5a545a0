"""How the tpu kernels go through a batch: a step of the grid for each live pair of blocks, and nothing for the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from skyrm_jax.attention.blocks import PairList
from skyrm_jax.errors import UserError

Ref = Any
"""A kernel's view of a block in fast memory; annotations give its shape."""

LANES = 128
"""Width of a vector register. A number per query fills all lanes, so that it meets a block without being moved."""

_STEP_BYTES = 2**20
"""Queries of one step, of as many kv heads as fit: enough work to hide what a step costs in itself, about a third of a
microsecond, and few enough that the sums, and the blocks of this step and of the next, fit in VMEM."""

_VMEM_BYTES = 32 * 2**20
_SMEM_BYTES = 1000 * 2**10
"""For the lists, of the 1 MiB of scalar memory."""


class Step(NamedTuple):
    """A step of the grid: its blocks, and whether it is the first and the last of its major block.

    Steps after a row's last live pair, which exist where another row has more, are none of live, first and last.
    """

    query: Array
    key: Array
    live: Array
    first: Array
    last: Array


@dataclass(frozen=True)
class Walk:
    """A walk over the live pairs of every row, and the shapes of the blocks it meets.

    Args:
        pairs: the pairs, in the order of the walk.
        by_query: are their majors query blocks, or key blocks?
        C: tokens of a block.
        N: query heads of a kv head.
        S: kv heads of a step.
        E: width of a head.
        interpret: see `TpuBackend`.
    """

    pairs: PairList
    by_query: bool
    C: int
    N: int
    S: int
    E: int
    interpret: bool

    @classmethod
    def over(cls, q: Float[Array, "B G N T E"], pairs: PairList, by_query: bool, interpret: bool) -> "Walk":
        _, G, N, T, E = q.shape
        C = T // (pairs.start.shape[1] - 1)
        of_head = N * C * max(E, LANES) * q.dtype.itemsize
        fits = [s for s in range(1, G + 1) if G % s == 0 and s * of_head <= _STEP_BYTES]
        return cls(pairs, by_query, C, N, max(fits, default=1), E, interpret)

    @property
    def n(self) -> int:
        """Blocks of a row."""
        return self.pairs.start.shape[1] - 1

    @property
    def M(self) -> int:
        """Queries of a block in all heads of a kv head, head by head."""
        return self.N * self.C

    def run(
        self,
        kernel: Callable[..., None],
        inputs: Sequence[tuple[Array, pl.BlockSpec]],
        outputs: Sequence[tuple[Array | jax.ShapeDtypeStruct, pl.BlockSpec]],
        scratch: Sequence[tuple[int, ...]],
    ) -> Any:
        """Arrays like `outputs`, by kernel(walk, step, *input blocks, *output blocks, *scratch in fp32) at each pair."""
        B, G = inputs[0][0].shape[:2]
        # Flat, and a pair to a word: scalar memory is small, and an array of more dimensions is padded in it.
        starts, codes = self.pairs.start.reshape(-1), (self.pairs.major << 16 | self.pairs.minor).reshape(-1)
        if 4 * (starts.size + codes.size) > _SMEM_BYTES:
            raise UserError(
                f"data.rows: the pairs of {self.n} blocks in each of a device's {B} rows exceed a TPU's scalar memory; "
                "use fewer or shorter rows to a device, or a larger block of attention"
            )

        def body(starts: Ref, codes: Ref, *refs: Ref) -> None:
            kernel(self, self._step(starts, codes), *refs)

        return pl.pallas_call(
            body,
            name=f"tree_attention{kernel.__name__}",
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x, _ in outputs],
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=2,
                grid=(B, G // self.S, self.pairs.start[:, -1].max()),
                in_specs=[spec for _, spec in inputs],
                out_specs=[spec for _, spec in outputs],
                scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
            ),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=_VMEM_BYTES
            ),
            interpret=self.interpret,
        )(starts, codes, *(x for x, _ in inputs))

    def _pair(self, codes: Ref, row: Any, at: Any) -> tuple[Any, Any]:
        """Query block and key block."""
        code = codes[row * self.pairs.major.shape[1] + at]
        major, minor = code >> 16, code & 0xFFFF
        return (major, minor) if self.by_query else (minor, major)

    def _step(self, starts: Ref, codes: Ref) -> Step:
        row, at = pl.program_id(0), pl.program_id(2)
        query, key = self._pair(codes, row, at)
        start = row * (self.n + 1)
        major = start + (query if self.by_query else key)
        return Step(query, key, at < starts[start + self.n], at == starts[major], at + 1 == starts[major + 1])

    def queries(self) -> pl.BlockSpec:
        """Blocks [S, N, C, E] of an array "B G N T E"."""
        return pl.BlockSpec(
            (None, self.S, self.N, self.C, self.E),
            lambda row, heads, at, _, codes: (row, heads, 0, self._pair(codes, row, at)[0], 0),
        )

    def per_query(self) -> pl.BlockSpec:
        """Blocks [S, 1, M] of an array "B G n 1 M"."""
        return pl.BlockSpec(
            (None, self.S, None, 1, self.M),
            lambda row, heads, at, _, codes: (row, heads, self._pair(codes, row, at)[0], 0, 0),
        )

    def keys(self) -> pl.BlockSpec:
        """Blocks [S, C, E] of an array "B G T E"."""
        return pl.BlockSpec(
            (None, self.S, self.C, self.E),
            lambda row, heads, at, _, codes: (row, heads, self._pair(codes, row, at)[1], 0),
        )

    def ends(self) -> pl.BlockSpec:
        """Blocks [1, C] of an array "B 1 T"."""
        return pl.BlockSpec((None, 1, self.C), lambda row, _, at, __, codes: (row, 0, self._pair(codes, row, at)[1]))
