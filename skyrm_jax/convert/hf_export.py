"""Reward models written for transformers: folders that `AutoModelForSequenceClassification.from_pretrained` loads.

Tensors are read, cast and written one after the other, so a model of any size needs the memory of a few tensors.
"""

import json
import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from skyrm_jax.checkpoint import copy_tokenizer_files
from skyrm_jax.convert.card import model_card
from skyrm_jax.convert.hf import SAFETENSORS
from skyrm_jax.convert.names import HfTensor, hf_tensors
from skyrm_jax.convert.weights import Weights, cast, row_blocks, stored_dtype
from skyrm_jax.folders import made_whole

GIB = 2**30
AHEAD = 2
"""Pieces read ahead of the one being written."""
_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def write_hf(
    folder: Path | str,
    weights: Weights,
    tokenizer: Path | None,
    dtype: str | None = None,
    max_shard_bytes: int = 5 * GIB,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Writes a reward model that `AutoModelForSequenceClassification.from_pretrained` loads.

    Written beside `folder` and renamed into place when complete: a folder of that name is always whole.

    Args:
        folder: must not exist, or be empty.
        tokenizer: folder whose tokenizer files are copied byte for byte.
        dtype: of the weights written; default as they are.
        max_shard_bytes: largest safetensors file; a single larger tensor gets a file of its own.
        provenance: how the model came to be, for its model card.

    Raises:
        UserError: the folder is in the way, the disk is full, or a tensor is damaged.
    """
    architecture = weights.architecture
    stored = stored_dtype(weights, "embed", dtype).name
    config = architecture.to_hf(stored)
    with made_whole(Path(folder)) as partial:
        _write_json(partial / "config.json", config)
        if tokenizer is not None:
            copy_tokenizer_files(tokenizer, partial)
        card = model_card(architecture, stored, provenance or {})
        (partial / "README.md").write_text(card, encoding="utf-8")
        _write_weights(partial, weights, dtype, max_shard_bytes)


@dataclass(frozen=True)
class _Shard:
    """One safetensors file: the tensors in it, with dtype and size in bytes."""

    tensors: list[tuple[HfTensor, np.dtype[Any], int]]

    @property
    def nbytes(self) -> int:
        return sum(nbytes for _, _, nbytes in self.tensors)

    def header(self) -> bytes:
        """Length and JSON of the safetensors format; data follow in the order of `tensors`."""
        record: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for tensor, dtype, nbytes in self.tensors:
            record[tensor.name] = {
                "dtype": _NAMES[dtype.name],
                "shape": list(tensor.shape),
                "data_offsets": [at, at + nbytes],
            }
            at += nbytes
        text = json.dumps(record, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % 64)  # readers map the data, and vector units like it aligned
        return len(text).to_bytes(8, "little") + text


def _shards(weights: Weights, dtype: str | None, limit: int) -> list[_Shard]:
    """Consecutive tensors, as many as fit `limit` bytes."""
    shards: list[_Shard] = []
    for tensor in hf_tensors(weights.architecture):
        target = stored_dtype(weights, tensor.path, dtype)
        nbytes = int(np.prod(tensor.shape)) * target.itemsize
        if not shards or shards[-1].nbytes + nbytes > limit:
            shards.append(_Shard([]))
        shards[-1].tensors.append((tensor, target, nbytes))
    return shards


def _write_weights(folder: Path, weights: Weights, dtype: str | None, limit: int) -> None:
    shards = _shards(weights, dtype, limit)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = SAFETENSORS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with (folder / name).open("wb") as file:
            file.write(shard.header())
            _write_tensors(file, weights, shard)
            file.flush()
            os.fsync(file.fileno())
        weight_map |= dict.fromkeys((tensor.name for tensor, _, _ in shard.tensors), name)
    if len(shards) > 1:
        total = sum(shard.nbytes for shard in shards)
        _write_json(folder / f"{SAFETENSORS}.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_tensors(file: BinaryIO, weights: Weights, shard: _Shard) -> None:
    """The shard's data in order, the next pieces being read meanwhile."""

    def read(tensor: HfTensor, dtype: np.dtype[Any], rows: slice) -> np.ndarray:
        return np.ascontiguousarray(cast(weights.read(tensor, rows), dtype, tensor.name))

    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: deque[Future[np.ndarray]] = deque()
        try:
            for tensor, dtype, _ in shard.tensors:
                for rows in row_blocks(tensor, weights.dtype(tensor.path)):
                    waiting.append(pool.submit(read, tensor, dtype, rows))
                    if len(waiting) > AHEAD:
                        file.write(waiting.popleft().result().view(np.uint8).data)
            while waiting:
                file.write(waiting.popleft().result().view(np.uint8).data)
        finally:
            for future in waiting:
                future.cancel()


def _write_json(file: Path, record: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
