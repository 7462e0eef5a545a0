"""Which token is padding: the reward is read at the right-most token that is not it, so it must be known."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from skyrm_jax.errors import UserError

WELL_KNOWN = ("<|finetune_right_pad_id|>", "<|endoftext|>", "<pad>", "<|pad|>", "[PAD]")


def choose_pad_token(folder: Path, configured: int | None, wanted: str | None = None) -> int:
    """The pad token's id: `wanted`, else what config.json says, else the tokenizer's, else a well-known one.

    Args:
        folder: holds the tokenizer's files.
        configured: `pad_token_id` of config.json.
        wanted: text of the token that the user asked for.

    Raises:
        UserError: there is no such token, or nothing says which one it is.
    """
    if wanted is None and configured is not None:
        return configured
    ids = _token_ids(folder)
    if wanted is not None:
        if wanted not in ids:
            raise UserError(f"--pad-token {wanted!r} is not one token of the tokenizer in {folder}")
        return ids[wanted]
    named = _configured_pad(folder)
    if named is not None and named in ids:
        return ids[named]
    for token in WELL_KNOWN:
        if token in ids:
            return ids[token]
    spare = [token for token in ids if token.startswith("<|reserved")][:2]
    raise UserError(
        f"{folder}: neither config.json nor the tokenizer says which token is padding, and the scored token "
        "depends on it. Name one that never appears in text with --pad-token"
        + (f", for example {' or '.join(map(repr, spare))}" if spare else "")
    )


def _token_ids(folder: Path) -> dict[str, int]:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(
            f"{folder} has no pad_token_id in config.json and no tokenizer.json to find one in: put the "
            "tokenizer files there, or add pad_token_id to config.json"
        )
    try:
        return dict(sorted(Tokenizer.from_file(str(file)).get_vocab().items(), key=lambda item: item[1]))
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{file} cannot be read as a tokenizer: {error}") from error


def _configured_pad(folder: Path) -> str | None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            token: Any = json.loads(file.read_text(encoding="utf-8")).get("pad_token")
        except ValueError as error:
            raise UserError(f"{file} is not valid JSON: {error}") from error
        if isinstance(token, dict):
            token = token.get("content")
        if token is not None:
            return str(token)
    return None
