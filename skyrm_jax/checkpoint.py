"""Checkpoints: Orbax arrays with everything needed to use them beside them. Used by train, convert and the scorer.

    DIR/tokenizer/                       the tokenizer's files, byte for byte
    DIR/checkpoints/STEP/model           parameters
    DIR/checkpoints/STEP/optimizer       moments and counters (training runs only)
    DIR/checkpoints/STEP/meta            architecture, template hash, resolved config, versions (JSON)
    DIR/checkpoints/STEP/CHECKSUMS       the seal, written last: see `seal`

DIR is a local folder, one that all processes share, or gs://bucket/folder. Arrays are always restored into our own
abstract tree, so any mesh may read what any other wrote.
"""

import atexit
import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fsspec
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from skyrm_jax import distributed
from skyrm_jax.errors import UserError
from skyrm_jax.mesh import make_mesh
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.parameters import Params, abstract, map_table, nested
from skyrm_jax.seal import SEAL, damage, files_of, is_remote, is_sealed, listed

FORMAT = 1
POOLING = "right-most token whose id is not pad_token_id"


CHUNK_BYTES = 2**26
"""Most that a chunk of a saved parameter holds."""

# gcsfs, which epath uses, would not see what TensorStore and other processes write: it keeps listings for good.
fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False


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


def folder_of(directory: Path | str, step: int | None = None) -> epath.Path:
    """Where the checkpoints of `directory` are, or the one of a step."""
    folder = epath.Path(directory) / "checkpoints"
    folder = folder if is_remote(folder) else folder.absolute()  # as Orbax wants it
    return folder if step is None else folder / str(step)


def finished_steps(directory: Path | str) -> list[int]:
    """Steps of the finished checkpoints, ascending."""
    found = listed(folder_of(directory))
    return sorted(int(path.name) for path in found if path.name.isdigit() and is_sealed(path))


def items(architecture: Architecture, params: Params, meta: dict[str, Any], **more: Any) -> ocp.args.Composite:
    """What a checkpoint holds, for Orbax to save; `more` are trees of arrays."""
    return ocp.args.Composite(
        model=ocp.args.StandardSave(params, save_args(architecture)),
        meta=ocp.args.JsonSave(meta),
        **{name: ocp.args.StandardSave(tree) for name, tree in more.items()},
    )


def restore(folder: epath.Path, **targets: Any) -> dict[str, Any]:
    """Trees of arrays of a checkpoint, in the shapes, dtypes and shardings of `targets`."""
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        wanted = {name: ocp.args.StandardRestore(target) for name, target in targets.items()}
        return dict(reader.restore(folder, args=ocp.args.Composite(**wanted)).items())


def save_args(architecture: Architecture) -> Params:
    """How parameters are saved: stacked ones in chunks of a layer or less, so that they can be read layer by layer."""
    return map_table(
        architecture,
        lambda _, spec: ocp.SaveArgs(
            chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if spec.axes[0] == "layers" and len(spec.shape) == 3 else ()
        ),
    )


def copy_tokenizer(source: Path, directory: Path | str) -> None:
    """Copies the tokenizer's files beside the checkpoints, unless they are there."""
    target = epath.Path(directory) / "tokenizer"
    if not source.is_dir() or (not is_remote(target) and target.exists()):
        return
    if is_remote(target):
        try:
            for file in tokenizer_files(source):
                (target / str(file.relative_to(source))).write_bytes(file.read_bytes())
        except FileNotFoundError as error:
            raise UserError(f"{directory}: there is no such bucket; make it, or correct run.out") from error
        return
    partial = Path(directory) / "tokenizer.partial"
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
    """A finished checkpoint of ours."""

    directory: Path | str
    step: int
    meta: dict[str, Any]

    @classmethod
    def read(cls, directory: Path | str, step: int) -> "Located":
        """Reads the record beside the arrays. Raises UserError if it is of another format."""
        meta = json.loads((folder_of(directory, step) / "meta" / "metadata").read_text())
        if meta.get("format") != FORMAT:
            raise UserError(
                f"{directory} step {step} has checkpoint format {meta.get('format')}; this version reads {FORMAT}"
            )
        return cls(directory, step, meta)

    @property
    def folder(self) -> epath.Path:
        return folder_of(self.directory, self.step)

    @property
    def architecture(self) -> Architecture:
        """Raises UserError, naming the checkpoint, if its record is damaged or of another program."""
        try:
            return Architecture.from_dict(self.meta["architecture"])
        except (UserError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.directory}/checkpoints/{self.step}: the architecture in its meta cannot be read "
                f"({error}); fetch or write the checkpoint again, or give another one"
            ) from error

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's folder; a remote one is copied to this machine."""
        return local_folder(epath.Path(self.directory) / "tokenizer")


def locate(path: Path | str) -> Located | None:
    """The checkpoint at `path` (DIR: its newest; DIR/checkpoints/STEP: that one), or None if it is not one of ours.

    All of its files are read, to see that none is damaged.

    Raises:
        UserError: the folder is ours but holds no finished checkpoint, or one that is damaged or of another format.
    """
    directory, step = str(path).rstrip("/"), None
    given = directory.split("/")
    if len(given) > 1 and given[-2] == "checkpoints" and given[-1].isdigit():
        directory, step = "/".join(given[:-2]) or ".", int(given[-1])
    if not listed(folder_of(directory)):
        return None
    finished = finished_steps(directory)
    if not finished or (step is not None and step not in finished):
        raise UserError(
            f"{directory}/checkpoints holds no finished checkpoint{'' if step is None else f' {step}'}; "
            f"finished: {finished or 'none'}"
        )
    step = finished[-1] if step is None else step
    if distributed.is_writer() and (fault := damage(folder_of(directory, step), ("model", "meta"))):
        others = [f"{directory}/checkpoints/{other}" for other in finished if other != step]
        raise UserError(f"{fault}; fetch this checkpoint again, or use another: {', '.join(others) or 'there is none'}")
    return Located.read(directory, step)


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
    return restore(found.folder, model=target)["model"]


def local_folder(folder: epath.Path) -> Path:
    """A folder of a few small files as a local one, for programs that read nothing else."""
    if not is_remote(folder):
        return Path(folder)
    copy = Path(tempfile.mkdtemp(prefix="skyrm-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    for name in files_of(folder):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes((folder / name).read_bytes())
    return copy


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, wherever it came from; `weights` is the folder whose files hold its parameters."""

    architecture: Architecture
    params: Params
    tokenizer: Path
    meta: dict[str, Any]
    source: str
    weights: epath.Path | Path


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
        # A run that goes on may finish a checkpoint between one process's look and another's.
        if (step := distributed.from_writer(found.step)) != found.step:
            found = Located.read(found.directory, step)
        params = restore_params(found, mesh, dtype)
        return LoadedModel(found.architecture, params, found.tokenizer, found.meta, str(source), found.folder)
    # Imported here: convert writes checkpoints through this module.
    from skyrm_jax.convert.hf import HfWeights, resolve
    from skyrm_jax.convert.weights import on_mesh

    name = None if dtype is None else jnp.dtype(dtype).name
    folder = resolve(str(source))
    weights = HfWeights(folder, dtype=name, pad_token_id=pad_token_id)
    params = on_mesh(weights, _one_device() if mesh is None else mesh, name)
    return LoadedModel(weights.architecture, params, folder, {"source": str(source)}, str(source), folder)


def digest(loaded: LoadedModel) -> str:
    """A hash of the files that hold the weights of what `load_model` has loaded."""
    folder = loaded.weights
    total = hashlib.sha256()
    if (folder / SEAL).exists():  # their checksums, which loading has compared with the files
        lines = (folder / SEAL).read_text().splitlines()
        total.update("\n".join(line for line in lines if " model/" in line).encode())
        return total.hexdigest()
    weights = sorted({*folder.glob("*.safetensors"), *folder.glob("*.bin")})
    for path in weights:
        with path.open("rb") as stream:
            total.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _one_device() -> Mesh:
    return make_mesh(devices=jax.local_devices()[:1])
