"""What a run starts from: its tokenised store and its model."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh
from rich.console import Console

from skyrm_jax import checkpoint, distributed
from skyrm_jax.chat import Chat
from skyrm_jax.config import TrainConfig
from skyrm_jax.convert.hf import read_architecture, read_json, resolve
from skyrm_jax.data import remote
from skyrm_jax.data.store import Store
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import COMPUTED, Architecture
from skyrm_jax.models.parameters import Params, initialise, shardings
from skyrm_jax.prepare import PrepareOptions, prepare
from skyrm_jax.schedule import CYCLE, Pool, mixture
from skyrm_jax.scorer import require_vocabulary


@dataclass(frozen=True)
class Start:
    """The tokenizer and architecture of a run, known before its parameters are loaded."""

    tokenizer: str
    chat: Chat
    architecture: Architecture


def start(config: TrainConfig) -> Start:
    """Tokenizer, template and architecture that `config` names.

    Raises:
        UserError: they cannot be found, or contradict each other.
    """
    if config.model.base is not None:
        given = config.model.architecture
        expected = {} if given is None else hf_config(given)
        architecture, folder = base_architecture(config.model.base, expected.get("pad_token_id"))
        if given is not None:
            if expected.get("vocab_size") is None:
                expected["vocab_size"] = architecture.vocab_size
            require_same(config.model.base, architecture, Architecture.from_hf(expected, _place(given)))
        tokenizer = config.data.tokenizer or str(folder)
        chat = Chat.load(tokenizer, architecture.pad_token_id, config.data.template)
    else:
        if config.data.tokenizer is None:
            raise UserError("a random start (model.architecture) needs data.tokenizer")
        tokenizer = config.data.tokenizer
        chat = Chat.load(tokenizer, None, config.data.template)
        architecture = random_architecture(config.model.architecture, chat)
        chat = replace(chat, pad_token_id=architecture.pad_token_id)
    require_vocabulary(chat, architecture, "use the model's own tokenizer (data.tokenizer)")
    return Start(tokenizer, chat, architecture)


def base_architecture(base: str, pad_token_id: int | None = None) -> tuple[Architecture, Path]:
    """Architecture, with another pad token if one is given, and tokenizer folder of a base; its arrays are not read."""
    found = checkpoint.locate(base)
    if found is None:
        folder = resolve(base)
        return read_architecture(folder, pad_token_id=pad_token_id), folder
    given = found.architecture
    return (given if pad_token_id is None else replace(given, pad_token_id=pad_token_id)), found.tokenizer


def hf_config(given: str | dict[str, Any] | None) -> dict[str, Any]:
    """The contents of `model.architecture`."""
    return dict(given) if isinstance(given, dict) else read_json(Path(str(given)))


def _place(given: str | dict[str, Any] | None) -> str:
    """What an error about the contents of `model.architecture` names."""
    return "model.architecture" if isinstance(given, dict) else f"model.architecture {given}"


def require_same(base: str, found: Architecture, expected: Architecture) -> None:
    """Raises UserError, naming what differs, unless the base computes what `model.architecture` says."""
    ours, theirs = expected.to_dict(), found.to_dict()
    for name in COMPUTED:
        if ours[name] != theirs[name]:
            raise UserError(
                f"model.base {base} has {name} {theirs[name]}, but model.architecture says {ours[name]}: correct one"
            )


def random_architecture(given: str | dict[str, Any] | None, chat: Chat) -> Architecture:
    """The architecture of a config.json (path or contents), the tokenizer filling in vocabulary and pad token."""
    config = hf_config(given)
    if config.get("vocab_size") is None:
        config["vocab_size"] = len(chat.tokenizer)
    if config.get("pad_token_id") is None:
        config["pad_token_id"] = chat.tokenizer.pad_token_id
    if config["pad_token_id"] is None:
        raise UserError(
            "the tokenizer names no pad token; set model.architecture.pad_token_id to an id that "
            "never ends a conversation"
        )
    return Architecture.from_hf(config, _place(given))


def open_store(config: TrainConfig, begin: Start, console: Console) -> Store:
    """The run's store, prepared now if `data.sources` are given and it is not there.

    Raises:
        UserError: it cannot be made; it was made with another tokenizer, template or pad token, or longer
            conversations, than this run uses; or, where `data.sources` are given, from others or with other options.
    """
    path = config.store
    if config.data.sources and not remote.is_remote(path):
        if distributed.is_writer() and not Path(path, "store.json").exists():
            prepare(prepare_options(config, begin), console)
        distributed.wait_for_all("the store is prepared")
        if not Path(path, "store.json").exists():
            raise UserError(
                f"{path}: process 0 prepared the store, but it is not seen here; choose a folder that all processes share"
            )
    store = Store.open(path)
    if config.data.sources:
        require_made_of(store, prepare_options(config, begin))
    store.require(
        {
            "tokenizer_hash": begin.chat.tokenizer_hash,
            "template_hash": begin.chat.template_hash,
            "pad_token_id": begin.architecture.pad_token_id,
        },
        "run",
        "prepare it again for this model (remove the folder, or choose another data.store)",
    )
    longest, row = store.meta["totals"]["most_longest"], max(config.data.row_lengths)
    if longest > row:
        raise UserError(f"{path} holds a conversation of {longest} tokens; data.row_tokens is {row}; raise it")
    return store


def require_made_of(store: Store, options: PrepareOptions) -> None:
    """Raises UserError, naming the key, unless `store` was made from these sources with these options.

    Sources are compared as they are named, from `data.root`, which may move. Tokenizer, template and pad token are
    left to `Store.require`, which knows them by content.
    """
    wanted = asdict(options)
    for name, made in {"sources": store.sources, **store.meta["options"]}.items():
        if name in ("tokenizer", "template", "pad_token_id") or wanted.get(name, made) == made:
            continue
        key = {"seed": "run.seed", "dedup": "dedup", "training": "training"}.get(name, f"data.{name}")
        raise UserError(
            f"{store.directory} was made with {key} = {made!r}, now it is {wanted[name]!r}: restore the value, choose "
            "another run.out or data.store, or delete the store to have it made again (or give data.store without "
            "data.sources, to use it as it is)"
        )


def pools(store: Store, weights: dict[str, float] | None) -> tuple[Pool, ...]:
    """What the schedule draws from: all training comparisons alike, or a mixture of the sources by weight.

    Raises UserError for a weight of something that is not a source of the store.
    """
    if not weights:
        return (Pool(store.index.training(), CYCLE),)
    unknown = sorted(set(weights) - set(store.sources))
    if unknown:
        raise UserError(
            f"data.mixture names {unknown[0]}, which is not a source of the store: {', '.join(store.sources)}"
        )
    given = [weights.get(name, 0.0) for name in store.sources]
    return mixture([store.index.training(number) for number in range(len(given))], given)


def prepare_options(config: TrainConfig, begin: Start) -> PrepareOptions:
    """What `skyrm prepare` would be told."""
    d = config.data
    return PrepareOptions(
        sources=d.sources,
        out=config.store,
        tokenizer=begin.tokenizer,
        root=d.root,
        form=d.form,
        pad_token_id=begin.architecture.pad_token_id,
        template=d.template,
        max_tokens=d.max_tokens,
        over_long=d.over_long,
        empty=d.empty,
        held_out=d.held_out,
        seed=config.run.seed,
        max_bad_share=d.max_bad_share,
    )


def starting_params(config: TrainConfig, begin: Start, mesh: Mesh) -> Params:
    """fp32 parameters on the mesh: those of the base, or fresh ones."""
    if config.model.base is not None:
        pad = begin.architecture.pad_token_id
        return checkpoint.load_model(config.model.base, mesh, "float32", pad_token_id=pad).params
    make = jax.jit(lambda key: initialise(begin.architecture, key), out_shardings=shardings(begin.architecture, mesh))
    return make(jax.random.key(config.run.seed))


def keep_tokenizer(begin: Start, template: str | None, out: str) -> None:
    """Puts the tokenizer beside the checkpoints; a template given by the user goes with it, as it decides rewards."""
    folder = Path(begin.tokenizer)
    checkpoint.copy_tokenizer(folder if folder.is_dir() else resolve(begin.tokenizer), out)
    if template is not None:
        (epath.Path(out) / "tokenizer" / "chat_template.jinja").write_text(begin.chat.template)
