"""Any model that a command's `--checkpoint` takes, opened without reading it: ours, a Hugging Face folder, a Hub id."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyrm_jax.checkpoint import locate, tokenizer_files
from skyrm_jax.convert.hf import HfWeights, commit, resolve
from skyrm_jax.convert.stored import StoredWeights
from skyrm_jax.convert.weights import Weights


@dataclass(frozen=True)
class OpenedModel:
    """Weights to read from, the folder of the tokenizer, and what is recorded about the model."""

    weights: Weights
    tokenizer: Path
    meta: dict[str, Any]


def open_model(source: str, dtype: str | None = None) -> OpenedModel:
    """Opens `source`, whose parameters will be converted to `dtype`. Raises UserError if nothing usable is there."""
    found = locate(source)
    if found is not None:
        return OpenedModel(StoredWeights(found), found.tokenizer, found.meta)
    folder = resolve(source)
    return OpenedModel(HfWeights(folder, dtype=dtype), folder, {"base": source, **commit(folder)})


def tokenizer_digest(folder: Path) -> str:
    """Tells tokenizers apart: a hash over the names and bytes of its files."""
    digest = hashlib.sha256()
    for file in tokenizer_files(folder):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
