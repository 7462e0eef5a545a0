"""What `eval` and `score` share: a scorer's options, loading it, scoring under a progress display."""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from rich.console import Console

from skyrm_jax.chat import Tree
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import Located
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.forms import FORMS
from skyrm_jax.report.progress import Advance, progress

if TYPE_CHECKING:
    from skyrm_jax.scorer import Scorer
    from skyrm_jax.tree_scorer import TreeScorer

MAX_TOKENS, DTYPE = 16_384, "bfloat16"
"""What a model scores with unless told otherwise."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how files are read and how a model scores."""
    parser.add_argument("--form", default="auto", help=f"shape of the records: auto, {', '.join(FORMS)}")
    parser.add_argument(
        "--max-bad-share",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="stop if more of the records are bad (default 0.05)",
    )
    parser.add_argument(
        "--max-tokens",
        type=_max_tokens,
        default=MAX_TOKENS,
        metavar="N",
        help="longest conversation; longer ones lose the beginning of their prompt (default 16384)",
    )
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default=DTYPE,
        help="of matrix operands (default bfloat16)",
    )
    parser.add_argument("--template", help="chat template, a file or a built-in name, instead of the checkpoint's own")


def _max_tokens(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"must be a number of at least 2, not {text!r}")
    return int(text)


def require_writable(folder: Path) -> None:
    """Raises UserError unless `folder` can be made, or written to: better known before hours of scoring."""
    place = folder.absolute()
    try:
        with tempfile.TemporaryFile(dir=next(one for one in (place, *place.parents) if one.exists())):
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); give another place for results") from None


def load_scorer(args: argparse.Namespace, source: str, mesh: Sequence[int] | None = None) -> "Scorer":
    """The scorer of `source` with the shared options. Raises UserError as `Scorer.load` does."""
    # These import JAX, which help and wrong input do not need.
    from skyrm_jax.mesh import make_mesh
    from skyrm_jax.scorer import Scorer

    devices = make_mesh(mesh[0], mesh[1], mesh[2]) if mesh else None
    return Scorer.load(source, mesh=devices, template=args.template, max_tokens=args.max_tokens, dtype=args.dtype)


def origin(scorer: "TreeScorer") -> dict[str, Any]:
    """What the rewards come from: the scorer's manifest and the versions of the packages under it."""
    from skyrm_jax.checkpoint import versions

    return {**scorer.manifest, "versions": versions()}


def readable(
    scorers: Sequence["TreeScorer"], records: Sequence[Located], quarantine: Quarantine
) -> tuple[list[int], list[list[Tree]]]:
    """Which of the records all scorers can read, and for each scorer the trees of these; the others are quarantined."""
    comparisons = [record.comparison for record in records]
    trees = [scorer.trees(comparisons) for scorer in scorers]
    numbers: list[int] = []
    for number, record in enumerate(records):
        refused = next((of[number] for of in trees if isinstance(of[number], RecordError)), None)
        if isinstance(refused, RecordError):
            quarantine.add(record.file, record.line, refused, record.raw)
        else:
            numbers.append(number)
    return numbers, [[cast(Tree, of[number]) for number in numbers] for of in trees]


def counted(
    scorer: "Scorer", total: int, console: Console, label: str, work: Callable[[Advance], list[np.ndarray]]
) -> tuple[list[np.ndarray], dict[str, int]]:
    """The rewards that `work` makes with the scorer under a progress display, and what the scorer counted meanwhile."""
    before = Counter(scorer.counts)
    with progress(console, label, total) as advance:
        rewards = work(advance)
    return rewards, {name: value - before[name] for name, value in scorer.counts.items()}
