"""Checkpoints written one tensor at a time: Orbax makes the directory and its metadata, TensorStore the arrays.

Orbax saves arrays that are in memory, and a stacked MLP weight of an 8B model alone is 3.5 GiB. So the leaves of the
tree it saves are `StreamedArray`s, and a type handler writes each of them piece by piece. What Orbax then finds on
disk are ordinary zarr arrays, which it restores like its own, onto any mesh.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from skyrm_jax.checkpoint import copy_tokenizer, folder_of, metadata
from skyrm_jax.convert.names import HfTensor
from skyrm_jax.convert.weights import EVERYTHING, Weights, by_path, cast, row_blocks, stored_dtype
from skyrm_jax.folders import made_whole
from skyrm_jax.models.parameters import ParameterSpec, Params, flattened, map_table
from skyrm_jax.seal import seal

Index = tuple[int | slice, ...]
Piece = tuple[Index, Callable[[], np.ndarray]]
"""Where a part of an array goes, and how to read it."""
CHUNK_BYTES = 2**23
"""Most that a chunk holds: what a process reads at least, so that one of many need not read everything."""
WORKERS = 2
"""Pieces in flight. Each is in memory up to three times: as mapped, as read, as written."""


@dataclass(frozen=True)
class StreamedArray:
    """An array that nobody holds whole.

    Attributes:
        chunks: shape of a chunk on disk.
        order: of a chunk's bytes; "F" if the pieces lie in memory with their last axis outermost, as a transposed
            torch matrix does, so that nothing is transposed while converting.
        pieces: all of it; each covers whole chunks.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    order: str
    pieces: Sequence[Piece]


def streamed(weights: Weights, dtype: str | None = None) -> Params:
    """`weights` as a tree of StreamedArrays laid out as `parameter_table`, in `dtype` (default: their own)."""
    tensors = by_path(weights.architecture)

    def leaf(path: str, spec: ParameterSpec) -> StreamedArray:
        target = stored_dtype(weights, path, dtype)
        pieces = [piece for tensor in tensors[path] for piece in _pieces(weights, tensor, target)]
        is_matrix = tensors[path][0].transpose
        rows = next(row_blocks(tensors[path][0], target)).stop
        return StreamedArray(
            spec.shape,
            target,
            chunk_shape(spec, target, None if is_matrix else rows),
            "F" if is_matrix else "C",
            pieces,
        )

    return map_table(weights.architecture, leaf)


def chunk_shape(spec: ParameterSpec, dtype: np.dtype[Any], rows: int | None = None) -> tuple[int, ...]:
    """One layer, cut in halves along the axes that a mesh divides, in turn, down to CHUNK_BYTES.

    Mesh sizes are powers of two, so chunks end where shards do. A process reads whole chunks: on a mesh with more shards
    than there are chunks, more than its own shards.

    Args:
        rows: if axis 0 is not that of layers: its share of a chunk (default: all).
    """
    stacked = spec.axes[0] == "layers"
    chunk = [1 if stacked else min(rows or spec.shape[0], spec.shape[0]), *spec.shape[1:]]
    divided = [axis for axis, name in enumerate(spec.axes) if name in ("hidden", "embedding", "heads", "mlp")]
    while divided and math.prod(chunk) * dtype.itemsize > CHUNK_BYTES and any(chunk[axis] > 1 for axis in divided):
        axis = min((axis for axis in divided if chunk[axis] > 1), key=lambda axis: spec.shape[axis] // chunk[axis])
        chunk[axis] = -(-chunk[axis] // 2)
    return tuple(chunk)


def _pieces(weights: Weights, tensor: HfTensor, dtype: np.dtype[Any]) -> Iterator[Piece]:
    def read(rows: slice) -> np.ndarray:
        value = cast(weights.read(tensor, rows), dtype, tensor.name)
        return value.T if tensor.transpose else value

    layer: Index = () if tensor.layer is None else (tensor.layer,)
    if tensor.transpose:  # in one piece, since its rows are no chunks of ours
        yield layer, partial(read, EVERYTHING)
    else:
        for rows in row_blocks(tensor, dtype):
            yield (*layer, rows), partial(read, rows)


class _Handler(ocp.type_handlers.TypeHandler):
    """Writes StreamedArrays; on disk they are what `jax.Array`s are."""

    def typestr(self) -> str:
        return "jax.Array"

    async def metadata(self, infos: Sequence[Any]) -> Sequence[Any]:
        raise NotImplementedError("StreamedArrays are only written")

    async def deserialize(self, infos: Sequence[Any], args: Sequence[Any] | None = None) -> Sequence[Any]:
        raise NotImplementedError("StreamedArrays are only written")

    async def serialize(
        self, values: Sequence[StreamedArray], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> Sequence[ocp.future.Future]:
        work = []
        for value, info in zip(values, infos, strict=True):
            await info.await_path_creation()
            store = await ts.open(_spec(value, info.path), create=True, open=True, context=info.ts_context)
            work += [(store, index, read) for index, read in value.pieces]
        with ThreadPoolExecutor(WORKERS) as pool:
            futures = [pool.submit(_write, *one) for one in work]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return []


def _write(store: Any, index: Index, read: Callable[[], np.ndarray]) -> None:
    value = read()
    try:
        store[index].write(value, can_reference_source_data_indefinitely=True).result()
    except ValueError as error:  # as which TensorStore reports a full disk
        raise OSError(str(error)) from error


def _spec(value: StreamedArray, path: Any) -> dict[str, Any]:
    return {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "store_data_equal_to_fill_value": True,
        "metadata": {
            "shape": value.shape,
            "chunks": value.chunks,
            "dtype": value.dtype.name if value.dtype.name == "bfloat16" else value.dtype.str,
            "order": value.order,
            "compressor": None,
            "filters": None,
            "fill_value": None,
            "dimension_separator": ".",
        },
    }


def write_checkpoint(
    out: Path | str,
    weights: Weights,
    tokenizer: Path,
    provenance: dict[str, Any],
    dtype: str | None = None,
) -> None:
    """Writes a model as a checkpoint of ours, written beside `out` and renamed into place when complete.

    Args:
        out: must not exist, or be empty.
        tokenizer: folder whose tokenizer files are copied byte for byte.
        provenance: how the model came to be.
        dtype: of the parameters; default their own.

    Raises:
        UserError: `out` is in the way, the disk is full, or a tensor is damaged.
    """
    tree = streamed(weights, dtype)
    dtypes = {path: array.dtype.name for path, array in flattened(tree).items()}
    with made_whole(Path(out)) as unfinished:
        copy_tokenizer(tokenizer, unfinished)
        _save(unfinished, tree, metadata(weights.architecture, dtypes, provenance))


def _save(directory: Path, tree: Params, meta: dict[str, Any]) -> None:
    """The tree of StreamedArrays as step 0 of the checkpoints of `directory`."""
    # Orbax warns of types it has no handlers of its own for, that it keeps no metadata of jax.Arrays and merges no OCDBT
    # files; none of it is meant here.
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        _save_quietly(directory, tree, meta)
    finally:
        absl.setLevel(level)


def _save_quietly(directory: Path, tree: Params, meta: dict[str, Any]) -> None:
    registry = ocp.type_handlers.create_type_handler_registry((StreamedArray, _Handler()))
    handlers: dict[str, Any] = {
        "model": ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=registry),
        "meta": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    folder = (directory / "checkpoints").absolute()
    with ocp.CheckpointManager(folder, options=options, item_handlers=handlers) as writer:
        writer.save(0, args=ocp.args.Composite(model=ocp.args.PyTreeSave(tree), meta=ocp.args.JsonSave(meta)))
        writer.wait_until_finished()
    seal(folder_of(directory, 0))
