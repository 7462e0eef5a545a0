"""A model's weights, wherever they are, read one tensor at a time: what converters take and give.

Tensors are in Hugging Face's orientation, matrices [out, in], because that is what most files hold.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding

from skyrm_jax.convert.names import HfTensor, hf_tensors
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import COMPUTED, Architecture
from skyrm_jax.models.parameters import Params, flattened, map_table, nested, parameter_table, shardings

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}

EVERYTHING = slice(None)
PIECE_BYTES = 2**27
"""Most that is read at once, if it can be cut; an MLP matrix of an 8B model is a little less in bfloat16."""


class Weights(Protocol):
    """The tensors of one reward model, by `hf_tensors(architecture)`."""

    @property
    def architecture(self) -> Architecture: ...

    def dtype(self, path: str) -> np.dtype[Any]:
        """Of the parameter at `path` of `parameter_table`."""
        ...

    def read(self, tensor: HfTensor, rows: slice = EVERYTHING) -> np.ndarray:
        """The tensor, or some rows of it. May be called from several threads.

        Its dtype may be wider than `dtype(tensor.path)`.

        Raises:
            UserError: naming the tensor that is damaged.
        """
        ...


def in_memory(weights: Weights, dtype: str | None = None) -> Params:
    """All parameters as numpy arrays, layers stacked and matrices [in, out], laid out as `parameter_table`.

    Args:
        dtype: of the parameters; default their own.
    """
    tensors = by_path(weights.architecture)
    return map_table(weights.architecture, lambda path, _: _stacked(weights, tensors[path], dtype))


def on_mesh(weights: Weights, mesh: Mesh, dtype: str | None = None) -> Params:
    """The same as arrays sharded over `mesh`; no process holds more than its shards and one parameter."""
    tensors = by_path(weights.architecture)

    def leaf(path: str, sharding: NamedSharding) -> jax.Array:
        whole = _stacked(weights, tensors[path], dtype)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    split = flattened(shardings(weights.architecture, mesh))
    return nested({path: leaf(path, sharding) for path, sharding in split.items()})


def by_path(architecture: Architecture) -> dict[str, list[HfTensor]]:
    """The tensors that each parameter is made of, in the order of layers."""
    tensors: dict[str, list[HfTensor]] = {}
    for tensor in hf_tensors(architecture):
        tensors.setdefault(tensor.path, []).append(tensor)
    return tensors


def _stacked(weights: Weights, tensors: Sequence[HfTensor], dtype: str | None) -> np.ndarray:
    """One parameter, from all its tensors."""
    path = tensors[0].path
    shape = parameter_table(weights.architecture)[path].shape
    whole = np.empty(shape, stored_dtype(weights, path, dtype))
    for tensor in tensors:
        value = cast(weights.read(tensor), whole.dtype, tensor.name)
        whole[... if tensor.layer is None else tensor.layer] = value.T if tensor.transpose else value
    return whole


def stored_dtype(weights: Weights, path: str, dtype: str | None) -> np.dtype[Any]:
    """What a parameter is stored as when the user asks for `dtype`, or for None in particular."""
    return DTYPES[dtype] if dtype else weights.dtype(path)


def row_blocks(tensor: HfTensor, dtype: np.dtype[Any]) -> Iterator[slice]:
    """Rows that are read together: the whole tensor, or parts of at most PIECE_BYTES.

    Parts are a power of two rows, so that blocks of one dtype begin where blocks of another do.
    """
    rows = tensor.shape[0]
    row_bytes = int(np.prod(tensor.shape[1:])) * dtype.itemsize
    step = rows if rows * row_bytes <= PIECE_BYTES else 1 << max(0, (PIECE_BYTES // row_bytes).bit_length() - 1)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


@dataclass(frozen=True)
class MemoryWeights:
    """Parameters that are in memory, laid out as `parameter_table`. Make one with `of`."""

    architecture: Architecture
    flat: dict[str, np.ndarray]

    @classmethod
    def of(cls, architecture: Architecture, params: Params) -> "MemoryWeights":
        """Raises UserError if the parameters are not those of the architecture."""
        flat = {path: np.asarray(value) for path, value in flattened(params).items()}
        check_parameters(architecture, {path: (value.shape, value.dtype) for path, value in flat.items()})
        return cls(architecture, flat)

    def dtype(self, path: str) -> np.dtype[Any]:
        return self.flat[path].dtype

    def read(self, tensor: HfTensor, rows: slice = EVERYTHING) -> np.ndarray:
        whole = self.flat[tensor.path]
        value = whole if tensor.layer is None else whole[tensor.layer]
        return (value.T if tensor.transpose else value)[rows]


@dataclass(frozen=True)
class AveragedWeights:
    """The weighted mean of models of one architecture, read as fp32; its own dtypes are the first model's. Make one with
    `of`."""

    models: Sequence[Weights]
    shares: Sequence[float]

    @classmethod
    def of(cls, models: Sequence[Weights], shares: Sequence[float], names: Sequence[str]) -> "AveragedWeights":
        """Shares are scaled to add up to one.

        Raises:
            UserError: the models differ in shape or in what they compute, or the shares are no weights.
        """
        if len(shares) != len(models):
            raise UserError(f"{len(models)} models but {len(shares)} weights: give one for each")
        if any(share < 0 or not np.isfinite(share) for share in shares) or sum(shares) <= 0:
            raise UserError(f"the weights {list(shares)} are not: none may be negative, and one must be positive")
        first = models[0].architecture.to_dict()
        for model, name in zip(models[1:], names[1:], strict=True):
            other = model.architecture.to_dict()
            for key in (*COMPUTED, "pad_token_id"):
                if first[key] != other[key]:
                    raise UserError(
                        f"{names[0]} and {name} cannot be averaged: {key} is {first[key]} in one, {other[key]} in the "
                        "other"
                    )
        total = sum(shares)
        return cls(models, [share / total for share in shares])

    @property
    def architecture(self) -> Architecture:
        return self.models[0].architecture

    def dtype(self, path: str) -> np.dtype[Any]:
        return self.models[0].dtype(path)

    def read(self, tensor: HfTensor, rows: slice = EVERYTHING) -> np.ndarray:
        total: np.ndarray | None = None
        for model, share in zip(self.models, self.shares, strict=True):
            part = model.read(tensor, rows).astype(np.float32)
            part *= np.float32(share)
            total = part if total is None else np.add(total, part, out=total)
        assert total is not None
        return total


def check_parameters(architecture: Architecture, found: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
    """Raises UserError unless the parameters are those of the architecture, in dtypes that can be written."""
    for path, spec in parameter_table(architecture).items():
        if path not in found:
            raise UserError(f"parameter {path} is missing")
        shape, dtype = found[path]
        if tuple(shape) != spec.shape:
            raise UserError(f"parameter {path} has shape {tuple(shape)}, its architecture makes it {spec.shape}")
        if dtype.name not in DTYPES:
            raise UserError(f"parameter {path} has dtype {dtype}; only {', '.join(DTYPES)} can be written")


def cast(value: np.ndarray, dtype: np.dtype[Any], name: str) -> np.ndarray:
    """`value` in `dtype`. Raises UserError if a number is too large for it; `name` is the tensor's."""
    if value.dtype == dtype:
        return value
    with np.errstate(over="ignore"):
        converted = value.astype(dtype)
    return check_finite(converted, f"tensor {name}, once it is {dtype.name},")


def check_finite(value: np.ndarray, where: str) -> np.ndarray:
    """The value itself.

    An exponent of all ones is NaN or infinite; of the bit patterns read as integers those are the greatest, so two
    passes find them, without a temporary and several times faster than `isfinite` does for bfloat16.

    Raises:
        UserError: it has a NaN or an infinity; `where` names the file and tensor.
    """
    signed, unsigned, exponent = _PATTERNS[value.dtype.name]
    if value.size and (
        value.view(signed).max() >= exponent or value.view(unsigned).max() >= exponent | _sign(unsigned)
    ):
        bad = int((~np.isfinite(value.astype(np.float32))).sum())
        raise UserError(f"{where} has {bad:,} values that are NaN or infinite")
    return value


_PATTERNS: dict[str, tuple[Any, Any, int]] = {
    "float32": (np.int32, np.uint32, 0x7F800000),
    "bfloat16": (np.int16, np.uint16, 0x7F80),
    "float16": (np.int16, np.uint16, 0x7C00),
}


def _sign(unsigned: Any) -> int:
    return 1 << (8 * np.dtype(unsigned).itemsize - 1)
