"""A Hugging Face tokenizer from what a GGUF file says of its own: byte-level BPE only.

transformers' own GGUF reader does not know SmolLM's pre-tokenizer ("smollm": digits are cut off first, one by one)
and gives other ids wherever a digit follows white space: on one in eight passages of ordinary text, and the model
finds those ids less likely. So the pre-tokenizers of the three model families read here are spelled out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from skyrm_jax.errors import UserError

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4

# The regular expressions are those of the models' published tokenizer.json files.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(numbers: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_WORDS + numbers + _REST), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip


def _single_digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])  # fmt: skip


def build_tokenizer(metadata: Mapping[str, Any], folder: Path, file: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json of a GGUF file's tokenizer into `folder`.

    Args:
        metadata: all keys and values of the file.
        folder: made if it is not there.
        file: for messages.

    Raises:
        UserError: the tokenizer is of a kind not known here, or does not give its special tokens their ids.
    """
    model, kind = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if model != "gpt2" or kind not in ("smollm", "qwen2", "llama-bpe"):
        raise UserError(
            f"{file}: its tokenizer (model {model!r}, pre-tokenizer {kind!r}) cannot be rebuilt; "
            "give a folder with the model's Hugging Face tokenizer with --tokenizer"
        )
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    used = (NORMAL, CONTROL, USER_DEFINED)  # the rest are fillers up to the size of the embedding
    vocab = {token: index for index, (token, type_) in enumerate(zip(tokens, types, strict=True)) if type_ in used}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=kind == "llama-bpe"))
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "smollm":
        tokenizer.pre_tokenizer = _single_digits()
    elif kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = _split(r"\p{N}")
    else:
        tokenizer.pre_tokenizer = _split(r"\p{N}{1,3}")
    special = {token: index for token, index in vocab.items() if types[index] != NORMAL}
    for token, index in special.items():
        is_control = types[index] == CONTROL
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=is_control)])

    named = {
        name: None if index is None else tokens[index]
        for name, index in {
            "bos_token": metadata.get("tokenizer.ggml.bos_token_id"),
            "eos_token": metadata.get("tokenizer.ggml.eos_token_id"),
            "unk_token": metadata.get("tokenizer.ggml.unknown_token_id"),
            "pad_token": metadata.get("tokenizer.ggml.padding_token_id"),
        }.items()
    }
    # llama.cpp puts a BOS before Llama 3 text unless the file says otherwise.
    if metadata.get("tokenizer.ggml.add_bos_token", kind == "llama-bpe"):
        bos = named["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, vocab[bos])]
        )
    for token, index in special.items():
        if tokenizer.encode(token, add_special_tokens=False).ids != [index]:
            raise UserError(f"{file}: the special token {token!r} does not get its id {index}; give --tokenizer")

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        # Any class named for a model would rebuild the pre-tokenizer its own way.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata.get(f"{metadata['general.architecture']}.context_length"),
        **{name: token for name, token in named.items() if token is not None},
    }
    if metadata.get("tokenizer.chat_template"):
        config["chat_template"] = metadata["tokenizer.chat_template"]
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
