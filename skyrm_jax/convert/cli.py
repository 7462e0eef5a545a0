"""The `convert` command: which model in, which model out."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from skyrm_jax.errors import UserError

DTYPES = ("keep", "float32", "bfloat16", "float16")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line of `convert`."""
    parser = argparse.ArgumentParser(
        prog="skyrm convert", description="Models in from Hugging Face and GGUF, reward models out to Hugging Face."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{from-hf,from-gguf,to-hf}")

    def add(name: str, source: str, source_help: str, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        command.add_argument("source", metavar=source, help=source_help)
        command.add_argument("out", metavar="OUT", help="folder to write; must not exist or be empty")
        command.add_argument("--dtype", choices=DTYPES, default="keep", help="dtype of the weights written")
        return command

    hf = add("from-hf", "SRC", "folder or Hub id", "import a causal LM (fresh head) or a reward model")
    gguf = add("from-gguf", "FILE", "a GGUF file, or package:NAME for the one in an installed package",
               "import a Llama or Qwen3 GGUF file (fresh head)")  # fmt: skip
    out = add("to-hf", "CHECKPOINT", "our checkpoint", "export a reward model for transformers")
    for command in (hf, gguf):
        command.add_argument("--pad-token", help="text of the pad token, over what the files say")
    hf.add_argument("--revision", help="of a Hub id")
    gguf.add_argument("--tokenizer", help="folder of the tokenizer to use instead of the file's own")
    out.add_argument("--max-shard-gib", type=float, default=5.0, help="largest safetensors file (default 5)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Runs the command. Raises UserError."""
    arguments = parse(argv)
    dtype = None if arguments.dtype == "keep" else arguments.dtype
    if arguments.command == "from-hf":
        from_hf(arguments.source, Path(arguments.out), arguments.pad_token, dtype, arguments.revision)
    elif arguments.command == "from-gguf":
        from_gguf(arguments.source, Path(arguments.out), arguments.pad_token, dtype, arguments.tokenizer)
    else:
        to_hf(arguments.source, Path(arguments.out), dtype, arguments.max_shard_gib)


def from_hf(source: str, out: Path, pad_token: str | None, dtype: str | None, revision: str | None) -> None:
    """Imports a Hugging Face folder or Hub id as a checkpoint of ours."""
    from skyrm_jax.convert.hf import read_hf, read_json, require_vacant, resolve
    from skyrm_jax.models.architecture import is_sequence_classifier

    require_vacant(out)
    folder = resolve(source, revision)
    architecture, params, tokenizer = read_hf(folder, pad_token, dtype)
    is_reward_model = is_sequence_classifier(read_json(folder / "config.json"))
    provenance = {"base": source, "head": "imported" if is_reward_model else "fresh, zero"}
    if revision is not None:
        provenance["revision"] = revision
    _save(out, architecture, params, tokenizer, provenance)


def from_gguf(source: str, out: Path, pad_token: str | None, dtype: str | None, tokenizer: str | None) -> None:
    """Imports a GGUF file as a checkpoint of ours."""
    from skyrm_jax.convert.gguf import find_file, read_gguf
    from skyrm_jax.convert.hf import require_vacant

    require_vacant(out)
    file = find_file(source)
    with tempfile.TemporaryDirectory() as temporary:
        architecture, params, folder = read_gguf(
            file, tokenizer or temporary, pad_token, dtype, build=tokenizer is None
        )
        name = source if source.startswith("package:") else file.name
        _save(out, architecture, params, folder, {"base": f"{name} ({file.name})", "head": "fresh, zero"})


def to_hf(source: str, out: Path, dtype: str | None, max_shard_gib: float) -> None:
    """Exports a checkpoint of ours as a transformers sequence classifier."""
    from skyrm_jax.checkpoint import load_model
    from skyrm_jax.convert.hf import GIB, write_hf

    if max_shard_gib <= 0:
        raise UserError("--max-shard-gib must be positive")
    loaded = load_model(source)
    write_hf(out, loaded.architecture, loaded.params, loaded.tokenizer, dtype, int(max_shard_gib * GIB), loaded.meta)
    _say(out, loaded.architecture)


def _save(out: Path, architecture: Any, params: Any, tokenizer: Path, provenance: dict[str, Any]) -> None:
    from skyrm_jax.chat import Chat
    from skyrm_jax.checkpoint import save_model

    try:
        chat = Chat.load(tokenizer, architecture.pad_token_id)
    except UserError as error:  # a base model without a chat template gets one when it is trained
        provenance["template_hash"] = None
        print(f"note: {error}")
    else:
        provenance |= {"template_hash": chat.template_hash, "tokenizer_hash": chat.tokenizer_hash}
    save_model(out, params, architecture, tokenizer, provenance)
    _say(out, architecture)


def _say(out: Path, architecture: Any) -> None:
    print(
        f"{out}: {architecture.model_type} reward model, {architecture.parameter_count():,} parameters, "
        f"pad token {architecture.pad_token_id}"
    )
