"""The `convert` command: which model in, which model out."""

import argparse
import math
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
    commands = parser.add_subparsers(dest="command", required=True, metavar="{from-hf,from-gguf,to-hf,average}")

    def add(name: str, source: str, source_help: str, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        command.add_argument("source", metavar=source, help=source_help)
        command.add_argument("out", metavar="OUT", help="folder to write; must not exist or be empty")
        command.add_argument("--dtype", choices=DTYPES, default="keep", help="dtype of the weights written")
        return command

    hub = "Hub id: owner/name or owner/name@revision"
    hf = add("from-hf", "SRC", f"Hugging Face folder, or {hub}", "import a causal LM (fresh head) or a reward model")
    gguf = add("from-gguf", "FILE", "a GGUF file; owner/name/FILE.gguf or owner/name/FILE.gguf@revision for one on the "
               "Hub; or package:NAME for the one in an installed package",
               "import a Llama or Qwen3 GGUF file (fresh head)")  # fmt: skip
    out = add(
        "to-hf", "MODEL", f"our checkpoint, Hugging Face folder, or {hub}", "export a reward model for transformers"
    )
    mean = commands.add_parser("average", help="the mean of several models of one architecture")
    mean.add_argument("sources", nargs="+", metavar="MODEL", help=f"our checkpoint, Hugging Face folder, or {hub}")
    mean.add_argument("--out", required=True, help="folder to write; must not exist or be empty")
    mean.add_argument("--weights", nargs="+", type=float, metavar="W", help="one for each model (default: equal)")
    mean.add_argument("--dtype", choices=DTYPES, default="keep", help="of the result (default: the first model's)")
    for command in (hf, gguf):
        command.add_argument("--pad-token", help="text of the pad token, over what the files say")
    hf.add_argument("--revision", help="of a Hub id: branch, tag or commit")
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
    elif arguments.command == "average":
        average(arguments.sources, Path(arguments.out), arguments.weights, dtype)
    else:
        to_hf(arguments.source, Path(arguments.out), dtype, arguments.max_shard_gib)


def from_hf(source: str, out: Path, pad_token: str | None, dtype: str | None, revision: str | None) -> None:
    """Imports a Hugging Face folder or Hub id as a checkpoint of ours."""
    from skyrm_jax.convert.hf import HfWeights, commit, resolve
    from skyrm_jax.folders import require_vacant

    require_vacant(out)
    folder = resolve(source, revision)
    weights = HfWeights(folder, pad_token, dtype)
    provenance = {"base": source, "head": "imported" if weights.has_head else "fresh, zero"}
    if revision is not None:
        provenance["revision"] = revision
    provenance |= commit(folder)
    _save(out, weights, folder, dtype, provenance)


def from_gguf(source: str, out: Path, pad_token: str | None, dtype: str | None, tokenizer: str | None) -> None:
    """Imports a GGUF file as a checkpoint of ours."""
    from skyrm_jax.convert.gguf import GgufWeights, find_file
    from skyrm_jax.convert.hf import commit
    from skyrm_jax.folders import require_vacant

    require_vacant(out)
    file = find_file(source)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(tokenizer or temporary)
        weights = GgufWeights(file, folder, pad_token, build=tokenizer is None)
        name = file.name if Path(source).is_file() else f"{source} ({file.name})"
        _save(out, weights, folder, dtype, {"base": name, "head": "fresh, zero", **commit(file)})


def to_hf(source: str, out: Path, dtype: str | None, max_shard_gib: float) -> None:
    """Exports a checkpoint of ours as a transformers sequence classifier."""
    from skyrm_jax.convert.hf_export import GIB, write_hf
    from skyrm_jax.convert.sources import open_model

    if not 0 < max_shard_gib < math.inf:
        raise UserError("--max-shard-gib must be positive")
    model = open_model(source, dtype)
    write_hf(out, model.weights, model.tokenizer, dtype, int(max_shard_gib * GIB), _described(model))
    _say(out, model.weights.architecture)


def average(sources: list[str], out: Path, shares: list[float] | None, dtype: str | None) -> None:
    """Writes the mean of several models of one architecture as a checkpoint of ours."""
    from skyrm_jax.convert.card import preference_data
    from skyrm_jax.convert.sources import open_model, tokenizer_digest
    from skyrm_jax.convert.weights import AveragedWeights
    from skyrm_jax.folders import require_vacant

    require_vacant(out)
    models = [open_model(source, dtype) for source in sources]
    weights = AveragedWeights.of([model.weights for model in models], shares or [1.0] * len(models), sources)
    of = [[source, share] for source, share in zip(sources, weights.shares, strict=True)]
    for source, model in zip(sources, models, strict=True):
        if tokenizer_digest(model.tokenizer) != tokenizer_digest(models[0].tokenizer):
            print(f"note: the tokenizer of {source} is not that of {sources[0]}, which the average gets")
    members = {source: _described(model) for source, model in zip(sources, models, strict=True)}
    data = {source: preference_data(meta) for source, meta in members.items()}
    provenance = {
        "base": "average",
        "average_of": of,
        "head": "averaged",
        "data": data if any(data.values()) else None,
        "member_templates": {source: meta["template_hash"] for source, meta in members.items()},
    }
    _save(out, weights, models[0].tokenizer, dtype, provenance)


def _save(out: Path, weights: Any, tokenizer: Path, dtype: str | None, provenance: dict[str, Any]) -> None:
    from skyrm_jax.convert.streamed import write_checkpoint

    write_checkpoint(out, weights, tokenizer, {**provenance, **_chat(tokenizer, weights.architecture)}, dtype)
    _say(out, weights.architecture)


def _described(model: Any) -> dict[str, Any]:
    """What is recorded about an OpenedModel, the hashes of its tokenizer being found where they are not."""
    if "template_hash" in model.meta:
        return dict(model.meta)
    return {**model.meta, **_chat(model.tokenizer, model.weights.architecture)}


def _chat(tokenizer: Path, architecture: Any) -> dict[str, str | None]:
    """What is recorded of a tokenizer: hashes of its chat template and of itself."""
    from skyrm_jax.chat import Chat

    try:
        chat = Chat.load(tokenizer, architecture.pad_token_id)
    except UserError as error:  # a base model without a chat template gets one when it is trained
        print(f"note: {error}")
        return {"template_hash": None}
    return {"template_hash": chat.template_hash, "tokenizer_hash": chat.tokenizer_hash}


def _say(out: Path, architecture: Any) -> None:
    print(
        f"{out}: {architecture.model_type} reward model, {architecture.parameter_count():,} parameters, "
        f"pad token {architecture.pad_token_id}"
    )
