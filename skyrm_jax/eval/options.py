"""The options of the eval command."""

import argparse
from pathlib import Path

from skyrm_jax.errors import UserError
from skyrm_jax.eval import scoring
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.eval.trivial import RULES


def parser() -> argparse.ArgumentParser:
    """The parser."""
    p = argparse.ArgumentParser(
        prog="skyrm eval",
        description="Score a reward model on the seven public benchmarks and on held-out comparisons.",
        epilog="--out gets report.html, results.json and rewards.parquet. A killed evaluation, started again with the "
        "same --out, goes on where it stopped.",
    )
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="our checkpoint, a Hugging Face folder or a Hub id")
    source.add_argument(
        "--from-rewards",
        type=Path,
        metavar="FILE",
        help="rewards that exist: rewards.parquet of an earlier run, or jsonl with id, rewards and, if need be, set: one "
        "reward for each response, as the published record has them, chosen before rejected, A before B; all ids are in the "
        "rewards.parquet of --baseline length",
    )
    source.add_argument("--endpoint", metavar="URL", help="a reward model served by SGLang or vLLM")
    source.add_argument("--baseline", choices=RULES, help="no model: what a trivial rule gets")
    names = ", ".join(BENCHMARKS)
    p.add_argument("--benchmarks", nargs="+", default=[], metavar="NAME", help=f"all, or any of: {names}")
    p.add_argument(
        "--data",
        type=Path,
        help="the benchmarks' published files: a folder for each, or just one; without it they are read from the Hub",
    )
    p.add_argument(
        "--held-out",
        nargs="+",
        default=[],
        metavar="PATH",
        help="files of comparisons with preferences, or the store of a training run",
    )
    p.add_argument("--out", type=Path, required=True, help="folder for the results")
    p.add_argument("--name", help="of the model, in the report (default: from its path)")
    p.add_argument(
        "--against",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="the --out of earlier evaluations: differences with paired intervals, and all in one report",
    )
    p.add_argument(
        "--mesh",
        type=int,
        nargs=3,
        metavar=("DATA", "FSDP", "MODEL"),
        help="the devices' mesh; one may be -1 (default 1 -1 1)",
    )
    served = p.add_argument_group("with --endpoint")
    served.add_argument(
        "--tokenizer", metavar="MODEL", help="the served model's tokenizer and chat template: folder or Hub id"
    )
    served.add_argument("--endpoint-form", choices=("auto", "sglang", "vllm"), default="auto", help="default: ask it")
    served.add_argument("--endpoint-model", metavar="NAME", help="the model's name there, where it serves several")
    scoring.add_options(p)
    p.set_defaults(max_tokens=None, dtype=None)  # so that what is given in vain is seen
    return p


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options. Raises UserError for combinations that mean nothing."""
    args = parser().parse_args(arguments)
    if not args.benchmarks and not args.held_out:
        raise UserError("nothing to score: give --benchmarks, or --held-out")
    if args.data is not None and not args.benchmarks:
        raise UserError("--data is for --benchmarks: say which, or all")
    if args.endpoint is None and (args.tokenizer or args.endpoint_model or args.endpoint_form != "auto"):
        raise UserError("--tokenizer, --endpoint-form and --endpoint-model belong to --endpoint")
    if args.endpoint is not None and args.tokenizer is None:
        raise UserError("--endpoint needs --tokenizer: the folder or Hub id of the served model's tokenizer")
    if args.mesh is not None and args.checkpoint is None:
        raise UserError("--mesh is for --checkpoint")
    if args.dtype is not None and args.checkpoint is None:
        raise UserError("--dtype is for --checkpoint: leave it out")
    if args.checkpoint is None and args.endpoint is None and (args.max_tokens is not None or args.template is not None):
        raise UserError(
            "--max-tokens and --template are for a model, that is --checkpoint or --endpoint: leave them out"
        )
    args.max_tokens = scoring.MAX_TOKENS if args.max_tokens is None else args.max_tokens
    args.dtype = scoring.DTYPE if args.dtype is None else args.dtype
    return args


def name_of(args: argparse.Namespace) -> str:
    """What the report calls the model."""
    if args.name:
        return str(args.name)
    if args.baseline:
        return f"baseline: {args.baseline}"
    if args.from_rewards:
        file: Path = args.from_rewards
        return file.absolute().parent.name if file.stem == "rewards" else file.stem
    return str(args.endpoint or args.checkpoint).rstrip("/").split("://")[-1].split("/")[-1]
