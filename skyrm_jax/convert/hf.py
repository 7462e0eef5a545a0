"""Hugging Face checkpoints: read a causal LM or a reward model, write a reward model.

Files are safetensors only; nothing is unpickled and no code from a repository is executed.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from skyrm_jax.checkpoint import tokenizer_files
from skyrm_jax.convert.card import model_card
from skyrm_jax.convert.names import LM_HEAD, SCORE, HfTensor, hf_tensors
from skyrm_jax.convert.pad import choose_pad_token
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture, is_sequence_classifier
from skyrm_jax.models.parameters import Params, flattened, nested, parameter_table

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
GIB = 2**30

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def resolve(source: str, revision: str | None = None) -> Path:
    """The local folder of a model: `source` itself, or the downloaded snapshot of a Hub id.

    Raises:
        UserError: it is neither a folder nor a Hub id that can be fetched.
    """
    folder = Path(source)
    if source and folder.is_dir():
        if revision is not None:
            raise UserError(f"--revision is for Hub ids, and {source} is a folder")
        return folder
    if folder.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise UserError(f"{source} is neither a checkpoint folder nor a Hub id (owner/name)")
    from huggingface_hub import snapshot_download

    wanted = [
        "config.json",
        "*.safetensors",
        INDEX,
        "tokenizer*",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template*",
    ]
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=wanted))
    except Exception as error:  # the Hub client raises a dozen kinds, all of them about this id or the network
        raise UserError(
            f"{source} is not a folder, and as a Hub id it cannot be fetched: {type(error).__name__}: {error}"
        ) from error


def read_architecture(folder: Path, pad_token: str | None = None) -> Architecture:
    """The architecture of a Hugging Face folder, its pad token resolved. Raises UserError as `read_hf` does."""
    architecture = Architecture.from_hf(read_json(folder / "config.json"))
    return replace(architecture, pad_token_id=choose_pad_token(folder, architecture.pad_token_id, pad_token))


def read_hf(
    folder: Path | str, pad_token: str | None = None, dtype: str | None = None
) -> tuple[Architecture, Params, Path]:
    """Reads a Qwen3 or Llama checkpoint as a reward model.

    A causal LM gets a fresh zero head in fp32 and loses its lm_head; a sequence classifier keeps its own.

    Args:
        folder: holds config.json, safetensors and the tokenizer's files.
        pad_token: text of the pad token, over what the files say.
        dtype: of the parameters; default as stored.

    Returns:
        The architecture (pad token resolved), numpy parameters laid out as `parameter_table`, and the
        folder of the tokenizer.

    Raises:
        UserError: naming the key of config.json or the tensor at fault.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    architecture = read_architecture(folder, pad_token)
    fresh_head = not is_sequence_classifier(config)
    expected = {tensor.name: tensor for tensor in hf_tensors(architecture)}
    if fresh_head:
        del expected[SCORE]
    with ExitStack() as stack:
        files = _open_weights(folder, stack)
        _check_names(folder, set(expected), set(files))
        flat = gather(architecture, expected.values(), lambda tensor: _read_tensor(tensor, files[tensor.name]), dtype)
    if fresh_head:
        flat["score"] = np.zeros((architecture.hidden, 1), np.float32)
    return architecture, nested(flat), folder


def write_hf(
    folder: Path | str,
    architecture: Architecture,
    params: Params,
    tokenizer: Path | None,
    dtype: str | None = None,
    max_shard_bytes: int = 5 * GIB,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Writes a reward model that `AutoModelForSequenceClassification.from_pretrained` loads.

    Written beside `folder` and renamed into place when complete: a folder of that name is always whole.

    Args:
        folder: must not exist, or be empty.
        params: arrays laid out as `parameter_table`.
        tokenizer: folder whose tokenizer files are copied byte for byte.
        dtype: of the weights written; default as they are.
        max_shard_bytes: largest safetensors file; a single larger tensor gets a file of its own.
        provenance: how the model came to be, for its model card.

    Raises:
        UserError: the folder is in the way, the disk is full, or parameters do not fit the architecture.
    """
    folder = Path(folder)
    require_vacant(folder)
    flat = {path: np.asarray(value) for path, value in flattened(params).items()}
    _check_params(architecture, flat)
    stored = dtype or flat["embed"].dtype.name
    config = architecture.to_hf(stored)

    partial = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write_json(partial / "config.json", config)
        _write_weights(partial, architecture, flat, dtype, max_shard_bytes)
        if tokenizer is not None:
            for file in tokenizer_files(tokenizer):
                shutil.copyfile(file, partial / file.name)
        card = model_card(architecture, stored, provenance or {})
        (partial / "README.md").write_text(card, encoding="utf-8")
        os.replace(partial, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_vacant(folder: Path) -> None:
    """Raises UserError unless `folder` does not exist or is empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty; choose another folder or remove it")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError if it is not there or not one."""
    if not file.is_file():
        raise UserError(f"{file} is missing: this is not a Hugging Face model folder")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"{file} must hold a JSON object")
    return record


def _open_weights(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Tensor name -> open safetensors file that holds it."""
    index = folder / INDEX
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise UserError(f"{index} has no weight_map")
        shards = sorted(set(weight_map.values()))
    else:
        weight_map, shards = None, [WEIGHTS]
    found: dict[str, Any] = {}
    for shard in shards:
        file = folder / shard
        if not file.is_file():
            raise UserError(
                f"{file} is missing" + (f": {INDEX} names it" if weight_map else ": only safetensors weights are read")
            )
        try:
            opened = stack.enter_context(safe_open(file, framework="np"))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged or cut short: {error}; fetch it again") from error
        found |= dict.fromkeys(opened.keys(), opened)
    for name in weight_map or ():
        if name not in found:
            raise UserError(f"{index} names the tensor {name}, which none of its files holds")
    return found


def _check_names(folder: Path, expected: set[str], present: set[str]) -> None:
    missing = sorted(expected - present)
    if missing:
        raise UserError(f"{folder}: tensor {_few(missing)} missing from the weights that its config.json describes")
    # lm_head reads logits, and old files store RoPE's frequencies: neither is a parameter of a reward model.
    inert = {name for name in present if name == LM_HEAD or name.endswith(".rotary_emb.inv_freq")}
    extra = sorted(present - expected - inert)
    if SCORE in extra:
        raise UserError(
            f"{folder}: the weights hold {SCORE} but config.json names no ...ForSequenceClassification in "
            "architectures: correct config.json if this is a reward model"
        )
    if extra:
        raise UserError(f"{folder}: tensor {_few(extra)} unknown to the architecture that its config.json describes")


def gather(
    architecture: Architecture,
    tensors: Iterable[HfTensor],
    read: Callable[[HfTensor], np.ndarray],
    dtype: str | None,
) -> dict[str, np.ndarray]:
    """Parameters by path, layers stacked and matrices [in, out], from tensors in Hugging Face's orientation.

    Args:
        tensors: which ones to read.
        read: gives one tensor's value.
        dtype: of the parameters; default the values' own.

    Raises:
        UserError: one tensor has another dtype in different layers, and no `dtype` is given.
    """
    table = parameter_table(architecture)
    flat: dict[str, np.ndarray] = {}
    for tensor in tensors:
        value = read(tensor)
        target = DTYPES[dtype] if dtype else value.dtype
        if tensor.path not in flat:
            flat[tensor.path] = np.empty(table[tensor.path].shape, target)
        whole = flat[tensor.path]
        if whole.dtype != target:
            raise UserError(f"tensor {tensor.name} is {target.name}, in other layers {whole.dtype.name}: give --dtype")
        whole[... if tensor.layer is None else tensor.layer] = value.T if tensor.transpose else value
    return flat


def _read_tensor(tensor: HfTensor, file: Any) -> np.ndarray:
    view = file.get_slice(tensor.name)
    if view.get_dtype() not in _STORED:
        raise UserError(f"tensor {tensor.name} has dtype {view.get_dtype()}; only {', '.join(_STORED)} are read")
    shape = tuple(view.get_shape())
    if shape != tensor.shape:
        raise UserError(f"tensor {tensor.name} has shape {shape}, but config.json makes it {tensor.shape}")
    value: np.ndarray = file.get_tensor(tensor.name)
    return value


def _check_params(architecture: Architecture, flat: Mapping[str, np.ndarray]) -> None:
    for path, spec in parameter_table(architecture).items():
        if path not in flat:
            raise UserError(f"parameter {path} is missing")
        if flat[path].shape != spec.shape:
            raise UserError(f"parameter {path} has shape {flat[path].shape}, its architecture makes it {spec.shape}")
        if flat[path].dtype.name not in DTYPES:
            raise UserError(f"parameter {path} has dtype {flat[path].dtype}; only {', '.join(DTYPES)} can be written")


def _shards(
    architecture: Architecture, flat: Mapping[str, np.ndarray], dtype: str | None, limit: int
) -> Iterator[list[HfTensor]]:
    """Consecutive tensors, as many as fit `limit` bytes."""
    group: list[HfTensor] = []
    size = 0
    for tensor in hf_tensors(architecture):
        itemsize = (DTYPES[dtype] if dtype else flat[tensor.path].dtype).itemsize
        nbytes = int(np.prod(tensor.shape)) * itemsize
        if group and size + nbytes > limit:
            yield group
            group, size = [], 0
        group.append(tensor)
        size += nbytes
    yield group


def _write_weights(
    folder: Path, architecture: Architecture, flat: Mapping[str, np.ndarray], dtype: str | None, limit: int
) -> None:
    groups = list(_shards(architecture, flat, dtype, limit))
    weight_map: dict[str, str] = {}
    total = 0
    for number, group in enumerate(groups, 1):
        file = WEIGHTS if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = {tensor.name: _tensor_value(tensor, flat, dtype) for tensor in group}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        # safetensors makes files that only their owner may read; weights are as readable as the rest.
        shutil.copymode(folder / "config.json", folder / file)
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(value.nbytes for value in tensors.values())
    if len(groups) > 1:
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _tensor_value(tensor: HfTensor, flat: Mapping[str, np.ndarray], dtype: str | None) -> np.ndarray:
    whole = flat[tensor.path]
    value = whole if tensor.layer is None else whole[tensor.layer]
    if tensor.transpose:
        value = value.T
    # safetensors writes the buffer as it lies in memory, so a transposed view must be made contiguous.
    return np.ascontiguousarray(value, dtype=DTYPES[dtype] if dtype else None)


def _write_json(file: Path, record: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _few(names: list[str]) -> str:
    return (
        ", ".join(names[:3])
        + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        + (" is" if len(names) == 1 else " are")
    )
