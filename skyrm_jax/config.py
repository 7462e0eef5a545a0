"""The configuration of a training run: frozen dataclasses, read from strict YAML with command-line overrides.

Every field here is read by the program. Paths in `data` are relative to `data.root` when that is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any, Literal, NoReturn

from jsonargparse import ArgumentParser, Namespace

from skyrm_jax.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """Where comparisons come from and how they become rows.

    Args:
        sources: what to prepare: files (jsonl, jsonl.gz, jsonl.zst, json, parquet), globs, folders, URLs, hub://.
        root: folder that relative sources start from.
        form: shape of the records; `auto` detects it.
        store: tokenised store, a folder or gs://bucket/folder. With `sources` it is made from them when it is not
            there, and refused if it was made from others or with other options; their files may be gone by then.
            Without `sources` it is used as it is. Default: `store` inside `run.out`.
        tokenizer: folder or Hub id; default: the one of `model.base`.
        template: a chat template file, or a built-in name, instead of the tokenizer's own.
        max_tokens: longest conversation.
        over_long: what happens to longer ones.
        empty: whether comparisons with a response without text are dropped or kept.
        held_out: comparisons held out by prompt: a share below 1, or a number of comparisons.
        max_bad_share: stop when more than this share of records is bad.
        row_tokens: length of a row, at least `max_tokens`; or up to three lengths, the longest at least that, of which
            each step uses what leaves the fewest slots empty.
        rows: rows of a micro-batch over all devices, a multiple of the mesh's data * fsdp; one number, or one for each
            length. 0: as many as that, or as the sub-trees of a tree longer than a row need.
        mixture: for sources, named as in `sources`, the weights they are drawn by; others are left out. Default: every
            comparison once an epoch.
        prefetch: steps read ahead.
        workers: loader processes; 0 reads in threads of this one.
    """

    sources: list[str] = field(default_factory=list)
    root: str | None = None
    form: str = "auto"
    store: str | None = None
    tokenizer: str | None = None
    template: str | None = None
    max_tokens: int = 16384
    over_long: Literal["drop", "truncate_left", "truncate_right"] = "drop"
    empty: Literal["drop", "keep"] = "drop"
    held_out: float = 0.02
    max_bad_share: float = 0.05
    row_tokens: int | list[int] = 16384
    rows: int | list[int] = 0
    mixture: dict[str, float] | None = None
    prefetch: int = 2
    workers: int = 0

    @property
    def row_lengths(self) -> list[int]:
        """`row_tokens`, as a list."""
        return [self.row_tokens] if isinstance(self.row_tokens, int) else self.row_tokens

    def micro_batches(self, shards: int, totals: Mapping[str, int]) -> tuple[list[int], list[int]]:
        """Row lengths, and rows of a micro-batch of each, for a mesh of `shards` = data * fsdp and a store's totals.

        Raises UserError for rows that the shards cannot share.
        """
        lengths = self.row_lengths
        rows = [self.rows] * len(lengths) if isinstance(self.rows, int) else self.rows
        if any(count % shards for count in rows):
            raise UserError(f"data.rows ({self.rows}) must be a multiple of the mesh's data * fsdp ({shards})")
        # A tree longer than a row needs rows for all its sub-trees: as many as it has leaves, or half as full as can be.
        parts = min(totals["most_leaves"], 2 * (totals["most_tokens"] // max(lengths)) + 1)
        enough = [parts if length == max(lengths) and totals["most_tokens"] > length else 1 for length in lengths]
        return lengths, [count or -(-least // shards) * shards for count, least in zip(rows, enough, strict=True)]


@dataclass(frozen=True)
class ModelConfig:
    """What is trained.

    Args:
        base: our checkpoint, an HF folder or a Hub id to start from; a causal LM gets a fresh head.
        architecture: an HF `config.json` path, or its contents. Without `base` the model starts at random, and
            `vocab_size` and `pad_token_id` may be left out: the tokenizer says. With `base` it is what the base must
            be, but for the pad token, which is taken from here.
        compute_dtype: dtype of matrix operands; accumulation, norms, softmax and loss are fp32 always.
        remat: what a layer keeps for its backward pass, which recomputes the rest: `full` nothing but its input,
            `attention` what attention returns, `minimal` all that products return, `none` everything. See
            `tools/bench_remat.py` for what each costs.
        attention: attention backend.
    """

    base: str | None = None
    architecture: str | dict[str, Any] | None = None
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    remat: Literal["full", "attention", "minimal", "none"] = "full"
    attention: str = "auto"


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning rate.

    Args:
        batch: N, comparisons per step; exact, whatever the hardware.
        learning_rate: peak.
        schedule: after the warm-up.
        warmup: share of all steps (below 1) or number of steps over which the rate rises from zero.
        final: for `linear` and `cosine`: the last rate as a share of the peak.
        clip: global gradient norm bound; 0 turns it off.
    """

    batch: int = 256
    learning_rate: float = 3e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = 0.03
    final: float = 0.0
    weight_decay: float = 0.001
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip: float = 1.0


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one may be -1, whatever is left."""

    data: int = 1
    fsdp: int = -1
    model: int = 1


@dataclass(frozen=True)
class RunConfig:
    """One run.

    Args:
        out: folder of checkpoints, metrics and plots; for several processes one that all share, or gs://bucket/folder.
        epochs: passes over the training comparisons.
        steps: stop after this many steps; 0: when the epochs are done. A finished run goes on if it is raised.
        seed: of the schedule, the held-out split and the fresh parameters.
        log_every: steps between lines of `metrics.jsonl`; 0: only the last.
        evaluate_every: steps between held-out evaluations; 0: only at the end.
        checkpoint_every: steps between checkpoints; 0: only at the end.
        keep: newest checkpoints kept.
        non_finite: what a batch does whose loss or gradient is not finite, once its comparisons are written down.
        stuck_seconds: with several processes, end them all when one step, or one held-out micro-batch, takes longer than
            this, or than ten times this where it compiles. 0: never.
        profile: first and last step of a `jax.profiler` trace, such as [10, 12].
        wandb: Weights & Biases project that the metrics go to as well; needs the extra `wandb`.
    """

    out: str = "runs/default"
    epochs: int = 1
    steps: int = 0
    seed: int = 0
    log_every: int = 1
    evaluate_every: int = 0
    checkpoint_every: int = 0
    keep: int = 2
    non_finite: Literal["stop", "skip"] = "stop"
    stuck_seconds: float = 1800
    profile: list[int] | None = None
    wandb: str | None = None


@dataclass(frozen=True)
class TrainConfig:
    """Everything `skyrm_jax.train` reads."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        d, o, r = self.data, self.optimizer, self.run
        for name, bad, rule in [
            (
                "data.row_tokens",
                max(d.row_lengths, default=0) < d.max_tokens,
                f"must be at least data.max_tokens ({d.max_tokens})",
            ),
            ("data.max_tokens", d.max_tokens < 2, "must be at least 2"),
            ("data.row_tokens", len(d.row_lengths) > 3, "may be three lengths at most"),
            ("data.row_tokens", min(d.row_lengths, default=1) < 1, "must be positive"),
            ("data.rows", min([d.rows] if isinstance(d.rows, int) else d.rows, default=0) < 0, "must not be negative"),
            (
                "data.rows",
                isinstance(d.rows, list) and len(d.rows) != len(d.row_lengths),
                "must be one number, or one for each length of data.row_tokens",
            ),
            ("data.held_out", not is_part(d.held_out), "must be a share below 1, or a whole number of comparisons"),
            ("data.max_bad_share", not 0 <= d.max_bad_share <= 1, "must be a share, 0 to 1"),
            ("data.prefetch", d.prefetch < 0, "must not be negative"),
            ("data.workers", d.workers < 0, "must not be negative"),
            ("optimizer.batch", o.batch < 1, "must be at least 1"),
            ("optimizer.learning_rate", not 0 < o.learning_rate < inf, "must be positive"),
            ("optimizer.warmup", not is_part(o.warmup), "must be a share below 1, or a whole number of steps"),
            ("optimizer.final", not 0 <= o.final <= 1, "must be a share of the peak, 0 to 1"),
            ("optimizer.weight_decay", not 0 <= o.weight_decay < inf, "must not be negative"),
            ("optimizer.b1", not 0 <= o.b1 < 1, "must be at least 0 and below 1"),
            ("optimizer.b2", not 0 <= o.b2 < 1, "must be at least 0 and below 1"),
            ("optimizer.eps", not 0 < o.eps < inf, "must be positive"),
            ("optimizer.clip", not 0 <= o.clip < inf, "must not be negative; 0 turns it off"),
            ("run.seed", not 0 <= r.seed < 2**63, "must not be negative, and below 2**63"),
            ("run.epochs", r.epochs < 1, "must be at least 1"),
            ("run.steps", r.steps < 0, "must not be negative; 0 trains for run.epochs"),
            ("run.log_every", r.log_every < 0, "must not be negative"),
            ("run.evaluate_every", r.evaluate_every < 0, "must not be negative"),
            ("run.checkpoint_every", r.checkpoint_every < 0, "must not be negative"),
            ("run.keep", r.keep < 1, "must be at least 1"),
            ("run.out", "://" in r.out and not r.out.startswith("gs://"), "must be a folder or gs://bucket/folder"),
            ("data.store", "://" in r.out and d.store is None, "must be given where run.out is remote"),
            ("run.stuck_seconds", not 0 <= r.stuck_seconds < inf, "must not be negative; 0 waits forever"),
            ("run.profile", not is_range(r.profile), "must be the first and the last step, such as [10, 12]"),
        ]:
            if bad:
                raise UserError(f"{name} {rule}")
        if self.model.base is None and self.model.architecture is None:
            raise UserError("give model.base (start from a checkpoint) or model.architecture (random start)")
        if not d.sources and d.store is None:
            raise UserError("give data.sources (files to prepare) or data.store (an already prepared store)")

    @property
    def store(self) -> str:
        """Where the tokenised store is, or will be."""
        return self.data.store or str(Path(self.run.out) / "store")

    def as_dict(self) -> dict[str, Any]:
        """Plain nested values, as recorded beside checkpoints."""
        return asdict(self)


def is_part(value: float) -> bool:
    """Whether this is a share below 1, or a whole number."""
    return 0 <= value < 1 or (value >= 1 and value % 1 == 0)


def is_range(steps: list[int] | None) -> bool:
    """Whether these are a first and a last step, counted from 1, or nothing."""
    return steps is None or (len(steps) == 2 and 1 <= steps[0] <= steps[1])


class ConfigParser(ArgumentParser):
    """A command's options from `--config FILE` and overrides; names the file in the errors about it."""

    file: str | None = None  # being read

    def add_config(self, options: type) -> None:
        """The fields of a dataclass as keys of the file and as arguments."""
        self.add_argument("--config", action="config", help="YAML file; arguments after it override it")
        self.add_class_arguments(options)

    def read(self, argv: Sequence[str] | None, sections: Sequence[str]) -> Namespace:
        """The options' values, with dataclasses made; each of `sections` holds keys.

        Raises UserError, naming the file or the key, for what is not a config; argparse's mistakes end the program.
        """
        try:
            given = self.parse_args(argv)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.file}: is not UTF-8 text ({error}); save it as UTF-8") from None
        for section in sections:
            if not isinstance(given[section], Namespace):
                where = ", ".join(map(str, given.config or ["the command line"]))
                raise UserError(f"{where}: {section} must hold keys, not {given[section]!r}")
        return self.instantiate(given)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        self.file = str(path)
        read = super().parse_path(path, *args, **kwargs)
        self.validate(read, skip_required=True)  # while the file is known
        self.file = None
        return read

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if self.file is not None:
            message = f"{self.file}: {message.replace('<unicode string>', self.file).strip()}; correct the file"
        super().error(message, ex)


def parse_train_config(argv: Sequence[str] | None = None) -> TrainConfig:
    """TrainConfig from `--config FILE` and overrides such as `--optimizer.batch 64`; unknown keys are errors.

    Raises UserError, naming the file or the key, for what is not a config; argparse's mistakes end the program.
    """
    parser = ConfigParser(
        prog="skyrm train",
        usage="skyrm train --config FILE [--section.key VALUE ...]",
        description="Train a reward model.",
    )
    parser.add_config(TrainConfig)
    read = parser.read(argv, tuple(section.name for section in fields(TrainConfig)))
    return TrainConfig(read.data, read.model, read.optimizer, read.mesh, read.run)
