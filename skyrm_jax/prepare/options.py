"""What a store is to be made from, and how; from the command line or YAML."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from skyrm_jax.chat import Policy
from skyrm_jax.errors import UserError


@dataclass(frozen=True)
class PrepareOptions:
    """What goes into a store, and how.

    Args:
        sources: files of comparisons (jsonl, jsonl.gz, jsonl.zst, json, parquet), globs, folders, URLs of these (gs://...),
            or Hub data sets (hub://owner/name?config=C&split=S&revision=R).
        out: folder of the store.
        tokenizer: folder or Hub id.
        root: folder that relative sources start from; default: the current one.
        form: shape of the records; `auto` detects it record by record.
        pad_token_id: the model's; null if it has none.
        template: a chat template file, or a built-in name (chatml, plain), instead of the tokenizer's own.
        max_tokens: longest conversation.
        over_long: what happens to longer ones.
        empty: whether training comparisons with a response without text are dropped or kept.
        held_out: comparisons held out by prompt: a share below 1, or a number of comparisons.
        seed: of the held-out split.
        max_bad_share: stop when more than this share of records is bad.
        dedup: pass over records that repeat an earlier one: the same prompt, responses and preferences.
        training: put aside identical pairs and pass over undecided records; off: keep both, for evaluation.
        workers: processes that tokenise; 0: this one. Default: one for each core, if there is enough to do.
        overwrite: replace a store that is already there.
    """

    sources: list[str]
    out: str
    tokenizer: str
    root: str | None = None
    form: str = "auto"
    pad_token_id: int | Literal["tokenizer"] | None = "tokenizer"
    template: str | None = None
    max_tokens: int = 16384
    over_long: Policy = "drop"
    empty: Literal["drop", "keep"] = "drop"
    held_out: float = 0.02
    seed: int = 0
    max_bad_share: float = 0.05
    dedup: bool = True
    training: bool = True
    workers: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, bad, rule in [
            ("max_tokens", self.max_tokens < 2, "must be at least 2"),
            ("held_out", self.held_out < 0, "must not be negative"),
            ("held_out", self.held_out > 1 and self.held_out % 1, "must be whole, or a share below 1"),
            ("seed", self.seed < 0, "must not be negative"),
            (
                "out",
                "://" in self.out or not Path(self.out).absolute().name,
                "must be a local folder (copy it from there)",
            ),
            ("workers", (self.workers or 0) < 0, "must not be negative"),
            ("max_bad_share", not 0 <= self.max_bad_share <= 1, "must be a share, 0 to 1"),
        ]:
            if bad:
                raise UserError(f"{name} {rule}: {getattr(self, name)}")


def parse_options(argv: Sequence[str] | None = None) -> PrepareOptions:
    """PrepareOptions from the command line and, with `--config FILE`, from YAML; unknown keys are errors."""
    parser = ArgumentParser(
        prog="skyrm prepare",
        usage="skyrm prepare SOURCE [SOURCE ...] --tokenizer DIR --out DIR [--key VALUE ...]",
        description="Preference files to a tokenised store.",
    )
    parser.add_argument("--config", action="config", help="YAML file; arguments after it override it")
    parser.add_argument("files", nargs="*", type=str, help="the sources, instead of --sources")
    parser.add_class_arguments(PrepareOptions)
    parser.set_defaults(sources=[])
    read: dict[str, Any] = parser.parse_args(argv).as_dict()
    del read["config"]
    return PrepareOptions(**(read | {"sources": read.pop("files") or read["sources"]}))
