"""Checkpoints: Orbax arrays with everything needed to use them beside them. Used by train, convert and the scorer.

    DIR/tokenizer/                       the tokenizer's files, byte for byte
    DIR/checkpoints/STEP/model           parameters
    DIR/checkpoints/STEP/optimizer       moments and counters (training runs only)
    DIR/checkpoints/STEP/meta            architecture, template hash, resolved config, versions (JSON)

Arrays are always restored into our own abstract tree, so any mesh may read what any other wrote.
"""

import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from skyrm_jax.errors import UserError
from skyrm_jax.mesh import make_mesh
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.parameters import Params, abstract, map_table, nested

FORMAT = 1
POOLING = "right-most token whose id is not pad_token_id"


CHUNK_BYTES = 2**26
"""Most that a chunk of a saved parameter holds."""


def versions() -> dict[str, str]:
    """Versions of the packages that can change a number."""
    found = {}
    for name in ("skyrm-jax", "jax", "jaxlib", "flax", "transformers", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def metadata(architecture: Architecture, dtypes: dict[str, str], provenance: dict[str, Any]) -> dict[str, Any]:
    """What is recorded beside the arrays; `dtypes` are those of the parameters, by dotted path."""
    return {
        "format": FORMAT,
        "architecture": architecture.to_dict(),
        "dtypes": dtypes,
        "pooling": POOLING,
        "versions": versions(),
        **provenance,
    }


def manager(directory: Path, keep: int | None = None) -> ocp.CheckpointManager:
    """Orbax's manager of the checkpoints of `directory`; saving is asynchronous, finishing atomic."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
    return ocp.CheckpointManager(
        (directory / "checkpoints").absolute(), options=options, item_names=("model", "optimizer", "meta")
    )


def save_args(architecture: Architecture) -> Params:
    """How parameters are saved: stacked ones in chunks of a layer or less, so that they can be read layer by layer."""
    return map_table(
        architecture,
        lambda _, spec: ocp.SaveArgs(
            chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if spec.axes[0] == "layers" and len(spec.shape) == 3 else ()
        ),
    )


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Copies the tokenizer's files beside the checkpoints, unless they are there."""
    target = directory / "tokenizer"
    if target.exists() or not source.is_dir():
        return
    partial = directory / "tokenizer.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    copy_tokenizer_files(source, partial)
    partial.rename(target)


def copy_tokenizer_files(source: Path, target: Path) -> None:
    """Copies the tokenizer of the model folder `source` into the folder `target`."""
    for file in tokenizer_files(source):
        copied = target / file.relative_to(source)
        copied.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copied)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a model folder, some of them in a folder of it, that make its tokenizer."""
    known = {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "chat_template.jinja",
        "chat_template.json",
    }
    named = [file for file in folder.iterdir() if file.name in known]
    return sorted([*named, *folder.glob("additional_chat_templates/*.jinja")])


@dataclass(frozen=True)
class Located:
    """A checkpoint of ours on disk."""

    directory: Path
    step: int
    meta: dict[str, Any]

    @property
    def architecture(self) -> Architecture:
        """Raises UserError, naming the checkpoint, if its record is damaged or of another program."""
        try:
            return Architecture.from_dict(self.meta["architecture"])
        except (UserError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.directory / 'checkpoints' / str(self.step)}: the architecture in its meta cannot be read "
                f"({error}); fetch or write the checkpoint again, or give another one"
            ) from error

    @property
    def tokenizer(self) -> Path:
        return self.directory / "tokenizer"


def locate(path: Path | str, unfinished_ok: bool = False) -> Located | None:
    """The checkpoint at `path` (DIR: its newest; DIR/checkpoints/STEP: that one), or None if it is not one of ours.

    With `unfinished_ok` also None where a run was stopped before its first checkpoint was finished.

    Raises:
        UserError: the folder is ours but holds no finished checkpoint, or one of another format.
    """
    path = Path(path)
    step: int | None = None
    if path.parent.name == "checkpoints" and path.name.isdigit():
        path, step = path.parent.parent, int(path.name)
    if not (path / "checkpoints").is_dir():
        return None
    with manager(path) as reader:
        found = reader.all_steps()
        if not found and unfinished_ok:
            return None
        if not found or (step is not None and step not in found):
            raise UserError(
                f"{path}/checkpoints holds no finished checkpoint{'' if step is None else f' {step}'}; "
                f"finished: {sorted(found) or 'none'}"
            )
        step = max(found) if step is None else step
        meta = reader.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    if meta.get("format") != FORMAT:
        raise UserError(f"{path} step {step} has checkpoint format {meta.get('format')}; this version reads {FORMAT}")
    return Located(path, step, meta)


def restore_params(found: Located, mesh: Mesh | None = None, dtype: Any = None) -> Params:
    """The parameters of a checkpoint, in `dtype` (default: as stored), sharded over `mesh`."""
    if mesh is None:
        mesh = _one_device()
    stored = nested({path: jnp.dtype(dtype or name) for path, name in found.meta["dtypes"].items()})
    target = jax.tree.map(
        lambda leaf, leaf_dtype: jax.ShapeDtypeStruct(leaf.shape, leaf_dtype, sharding=leaf.sharding),
        abstract(found.architecture, mesh),
        stored,
    )
    with manager(found.directory) as reader:
        return reader.restore(found.step, args=ocp.args.Composite(model=ocp.args.StandardRestore(target)))["model"]


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, wherever it came from."""

    architecture: Architecture
    params: Params
    tokenizer: Path
    meta: dict[str, Any]
    source: str


def load_model(
    source: Path | str, mesh: Mesh | None = None, dtype: Any = None, pad_token_id: int | None = None
) -> LoadedModel:
    """Loads `source`: our checkpoint, a Hugging Face folder, or a Hub id (`owner/name`, `owner/name@revision`), with no
    conversion by hand.

    Args:
        source: what a command's `--checkpoint` takes. Of a checkpoint of ours a process reads its own shards; of a
            Hugging Face folder it reads everything, parameter after parameter: for many processes convert it first.
        mesh: where the parameters go; default one device.
        dtype: of the parameters; default as stored.
        pad_token_id: of a Hugging Face folder, over what its files say.

    Raises:
        UserError: nothing usable is there.
    """
    found = locate(source)
    if found is not None:
        params = restore_params(found, mesh, dtype)
        return LoadedModel(found.architecture, params, found.tokenizer, found.meta, str(source))
    # Imported here: convert writes checkpoints through this module.
    from skyrm_jax.convert.hf import HfWeights, resolve
    from skyrm_jax.convert.weights import on_mesh

    name = None if dtype is None else jnp.dtype(dtype).name
    folder = resolve(str(source))
    weights = HfWeights(folder, dtype=name, pad_token_id=pad_token_id)
    params = on_mesh(weights, _one_device() if mesh is None else mesh, name)
    return LoadedModel(weights.architecture, params, folder, {"source": str(source)}, str(source))


def _one_device() -> Mesh:
    return make_mesh(devices=jax.local_devices()[:1])
