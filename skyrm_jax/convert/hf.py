"""Hugging Face checkpoints read as reward models: safetensors, or `pytorch_model.bin` where torch is installed.

Nothing is unpickled beyond plain tensors, and no code from a repository is executed.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from skyrm_jax.convert.cut import cut_safetensors, why_torch_refuses
from skyrm_jax.convert.names import LM_HEAD, SCORE, HfTensor, hf_tensors
from skyrm_jax.convert.pad import choose_pad_token
from skyrm_jax.convert.weights import DTYPES, EVERYTHING, check_finite, in_memory
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture, is_sequence_classifier
from skyrm_jax.models.parameters import Params

SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
FETCHED = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*.jinja",
]
"""What is fetched of a Hub repository: weights and text, never code."""
CODE = ["*.py"]
FETCHED_OLD = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def resolve(source: str, revision: str | None = None) -> Path:
    """The local folder of a model: `source` itself, or the downloaded snapshot of a Hub id.

    Args:
        source: a folder, or a Hub id: `owner/name` or `owner/name@revision`.
        revision: branch, tag or commit, if the id names none.

    Raises:
        UserError: it is neither a folder nor a Hub id that can be fetched.
    """
    folder = Path(source)
    if source and folder.is_dir():
        if revision is not None:
            raise UserError(f"--revision is for Hub ids, and {source} is a folder")
        return folder
    name, revision = split_revision(source, revision)
    if folder.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UserError(f"{source} is neither a checkpoint folder nor a Hub id (owner/name or owner/name@revision)")
    from huggingface_hub import snapshot_download

    try:
        fetched = Path(snapshot_download(name, revision=revision, allow_patterns=FETCHED, ignore_patterns=CODE))
        if not any(fetched.glob("*.safetensors")):  # an old repository: torch's own format or nothing
            wanted = [*FETCHED, *FETCHED_OLD]
            fetched = Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=CODE))
    except Exception as error:  # the Hub client raises a dozen kinds, all of them about this id or the network
        raise UserError(
            f"{source} is not a folder, and as a Hub id it cannot be fetched: {type(error).__name__}: {error}"
        ) from error
    return fetched


def split_revision(source: str, revision: str | None = None) -> tuple[str, str | None]:
    """A Hub id without its `@revision`, and that or the one given. Raises UserError if there are two or an empty one."""
    name, at, named = source.partition("@")
    if not at:
        return name, revision
    if not named or revision is not None:
        raise UserError(f"{source}: give one revision, after the @ or with --revision")
    return name, named


def commit(path: Path) -> dict[str, str]:
    """The commit of a folder or file that the Hub client fetched, as provenance."""
    for folder in (path, *path.parents):
        if folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name):
            return {"commit": folder.name}
    return {}


def read_architecture(folder: Path, pad_token: str | None = None, pad_token_id: int | None = None) -> Architecture:
    """The architecture of a Hugging Face folder, its pad token resolved: `pad_token_id`, or as `HfWeights` does.

    Raises UserError as `HfWeights` does.
    """
    file = folder / "config.json"
    architecture = Architecture.from_hf(read_json(file), str(file))
    if pad_token_id is not None:
        return replace(architecture, pad_token_id=pad_token_id)
    return replace(architecture, pad_token_id=choose_pad_token(folder, architecture.pad_token_id, pad_token))


def read_hf(
    folder: Path | str, pad_token: str | None = None, dtype: str | None = None, pad_token_id: int | None = None
) -> tuple[Architecture, Params, Path]:
    """A Hugging Face folder in memory: architecture, parameters as `parameter_table`, folder of the tokenizer.

    Arguments and errors are those of `HfWeights`.
    """
    weights = HfWeights(Path(folder), pad_token, dtype, pad_token_id)
    return weights.architecture, in_memory(weights, dtype), Path(folder)


class HfWeights:
    """A Qwen3 or Llama checkpoint as a reward model.

    A causal LM gets a fresh zero head in fp32 and loses its lm_head; a sequence classifier keeps its own.

    Args:
        folder: holds config.json, the weights and the tokenizer's files.
        pad_token: text of the pad token, over what the files say.
        dtype: what the parameters will be converted to; without one, a parameter must have one dtype in all layers.
        pad_token_id: the pad token's id, over what anything says.

    Raises:
        UserError: naming the key of config.json or the tensor at fault; no data is read yet.
    """

    def __init__(
        self,
        folder: Path,
        pad_token: str | None = None,
        dtype: str | None = None,
        pad_token_id: int | None = None,
    ):
        self.folder = folder
        config = read_json(folder / "config.json")
        self.architecture = read_architecture(folder, pad_token, pad_token_id)
        self.has_head = is_sequence_classifier(config)
        self._files = _named_as_in_a_model(_open(folder))
        expected = [tensor for tensor in hf_tensors(self.architecture) if self.has_head or tensor.name != SCORE]
        _check_names(folder, {tensor.name for tensor in expected}, set(self._files))
        self._dtypes: dict[str, np.dtype[Any]] = {"score": DTYPES["float32"]}
        seen: dict[str, np.dtype[Any]] = {}
        for tensor in expected:
            found = self._files[tensor.name]
            if found.shape != tensor.shape:
                raise UserError(
                    f"tensor {tensor.name} has shape {found.shape}, but config.json makes it {tensor.shape}"
                )
            first = seen.setdefault(tensor.path, found.dtype)
            if dtype is None and found.dtype != first:
                raise UserError(
                    f"tensor {tensor.name} is {found.dtype.name}, in other layers {first.name}: give --dtype"
                )
        self._dtypes |= seen

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor in the files, whether it is used or not."""
        return {name: stored.shape for name, stored in self._files.items()}

    def dtype(self, path: str) -> np.dtype[Any]:
        return self._dtypes[path]

    def read(self, tensor: HfTensor, rows: slice = EVERYTHING) -> np.ndarray:
        if tensor.name == SCORE and not self.has_head:
            return np.zeros(tensor.shape, np.float32)[rows]
        found = self._files[tensor.name]
        return check_finite(found.read(rows), f"{found.file}: tensor {tensor.name}")


@dataclass(frozen=True)
class _Stored:
    """A tensor in a file: what its header says, and how to read rows of it."""

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[slice], np.ndarray]


def _open(folder: Path) -> dict[str, _Stored]:
    """All tensors of a folder, by name."""
    for name, headers in ((SAFETENSORS, _safetensors), (TORCH, _torch)):
        index = folder / f"{name}.index.json"
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise UserError(f"{index} has no weight_map")
            found: dict[str, _Stored] = {}
            for shard in sorted(set(map(str, weight_map.values()))):
                if Path(shard).name != shard:
                    raise UserError(f"{index} names {shard!r}, which is not a file of its folder")
                if not (folder / shard).is_file():
                    raise UserError(f"{folder / shard} is missing: {index.name} names it")
                found |= headers(folder / shard)
            for tensor in weight_map:
                if tensor not in found:
                    raise UserError(f"{index} names the tensor {tensor}, which none of its files holds")
            return found
        if (folder / name).is_file():
            return dict(headers(folder / name))
    gguf = next(folder.glob("*.gguf"), None)
    raise UserError(
        f"{folder / SAFETENSORS} is missing, and so is {TORCH}: there are no weights to read"
        + (f"; import {gguf} with `skyrm convert from-gguf`" if gguf else "")
    )


def _named_as_in_a_model(files: dict[str, _Stored]) -> dict[str, _Stored]:
    """The tensors of a decoder saved on its own, as Qwen3-Embedding's are, with the prefix that they have in a model."""
    if "embed_tokens.weight" not in files:
        return files
    return {f"model.{name}": stored for name, stored in files.items()}


def _safetensors(file: Path) -> Iterator[tuple[str, _Stored]]:
    try:
        with safe_open(file, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                view = opened.get_slice(name)
                if view.get_dtype() not in _STORED:
                    raise UserError(f"tensor {name} has dtype {view.get_dtype()}; only {', '.join(_STORED)} are read")
                dtype = DTYPES[_STORED[view.get_dtype()]]
                yield name, _Stored(file, tuple(view.get_shape()), dtype, _SafetensorsReader(file, name))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged or cut short: {cut_safetensors(file) or error}; fetch it again") from error


@dataclass(frozen=True)
class _SafetensorsReader:
    file: Path
    name: str

    def __call__(self, rows: slice) -> np.ndarray:
        # Opened anew each time: the pages of a mapping count as this process's memory until it is closed.
        try:
            with safe_open(self.file, framework="np") as opened:
                whole = rows == EVERYTHING
                value: np.ndarray = opened.get_tensor(self.name) if whole else opened.get_slice(self.name)[rows]
                return value
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.file}: tensor {self.name} cannot be read: {error}; fetch it again") from error


def _torch(file: Path) -> Iterator[tuple[str, _Stored]]:
    for name, tensor in _load_torch(file).items():
        stored = str(tensor.dtype).removeprefix("torch.")
        if stored not in DTYPES:
            raise UserError(f"tensor {name} has dtype {stored}; only {', '.join(DTYPES)} are read")
        yield name, _Stored(file, tuple(tensor.shape), DTYPES[stored], _TorchReader(file, name))


@dataclass(frozen=True)
class _TorchReader:
    file: Path
    name: str

    def __call__(self, rows: slice) -> np.ndarray:
        import torch

        tensor = _load_torch(self.file)[self.name][rows].contiguous()
        if tensor.dtype == torch.bfloat16:  # numpy has no bfloat16 of its own
            bits: np.ndarray = tensor.view(torch.int16).numpy()
            return bits.view(DTYPES["bfloat16"]).copy()
        value: np.ndarray = tensor.numpy()
        return value.copy()


def _load_torch(file: Path) -> dict[str, Any]:
    """The tensors of a pytorch_model.bin, mapped, not read; `weights_only` refuses every pickle but plain tensors."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{file} needs torch to be read: install it, or convert the model to safetensors first"
        ) from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
        raise UserError(f"{file} needs torch 2.6 or later: before, reading a pickle could run code (CVE-2025-32434)")
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch and pickle raise many kinds, all of them about this file
        known = why_torch_refuses(file)
        raise UserError(f"{file} {known or f'cannot be read as plain tensors: {error}'}") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise UserError(f"{file} is not a mapping of names to tensors: save the model's state_dict alone")
    return tensors


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


def _few(names: list[str]) -> str:
    return (
        ", ".join(names[:3])
        + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        + (" is" if len(names) == 1 else " are")
    )
