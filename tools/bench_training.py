"""How fast we train, and whether to the same losses, against TRL's RewardTrainer on the same CPUs, or the same GPU.

    pip install trl       (found with trl 1.16, transformers 5.24, torch 2.13)
    python tools/bench_training.py --shared DIR [--only training loss] [--device gpu] [--scratch DIR] [--json FILE]

DIR (or $SKYRM_SHARED) is the folder of real data: data/preferences/hh-rlhf, tokenizers/qwen3. Each side is a process of its
own (bench_training_sides.py) that stays alive, does steps when it is told to, and sleeps while the other one does.

training  Pairs per second of whole steps (loading, forward, backward, clipping, AdamW), bf16 compute over fp32 parameters on
          both sides: Qwen3-0.6B's shape and vocabulary with `--layers` of its 28 layers, from the same weights. A round is
          the same `--pairs` pairs once through, in steps of `--batch`; a round to warm up (compilation) is not counted.
          The figure is the median over the rounds of one side's seconds over the other's. A batch is 64 pairs: the
          published runs take 256 to 10,240, and with few the update of the 156 million parameters of the embedding, which
          is the same work on both sides, hides what is compared. Tokens are counted on both sides and must be equal.
          `slots_per_pair` is what each side computes for a pair, pads and, for TRL, both copies of the prompt included.
loss      Largest difference between the two loss curves over `--steps` fp32 steps, from the same weights (ours, written by
          skyrm_jax.convert.hf_export with a random head), the same batches in the same order, the same AdamW (Trainer
          decays what we decay: matrices, no norm weights), constant rate and clipping: a few pairs again and again, so
          that the loss surely falls. `loss_fall` is from the first step to the mean of the last five, of the curve that
          falls less. TRL's loss is what its own compute_loss returns.

TRL_BEST is what TRL is measured with. How it was found, on two cores of an AMD EPYC (AVX512-BF16, no AMX) with two layers:

    32 pairs a step, longest first, all three alive and in turn, seconds of a step (the last turn, when nothing else ran;
    4.61 and 5.31 for the second and third in the turn before):
        torch.compile, micro-batches of 4                 4.36     as used
        torch.compile, micro-batches of 8                 4.50     slots a pair 12 % more here, 3 % of 256 pairs
        micro-batches of 8                                5.39
    8 pairs a step, while other work ran, so only rough: least CPU time of three steps, over that of bf16 autocast, sdpa,
    micro-batches of 4, glibc told to keep its memory, no torch.compile:
        micro-batches of 2 / 8 (which pad 1.3 times)      1.0 / 1.2
        micro-batches of 1                                above 1, not settled
        gradient checkpointing (the default)              1.5
        attn_implementation="eager"                       1.4
        glibc as it is / with huge pages                  1.2 / 1.3
        bf16 weights, with / without autocast             1.3 / 1.2, and at usual rates their updates round away
        fp32                                              2.3
        pairs in random order                             1.5
    Not measured: bf16 weights under torch.compile; micro-batches of 16 under it (out of memory beside the others).

TRL's file is sorted by length and read in order, which is what `train_sampling_strategy="group_by_length"` comes to in a
long run: it sorts fifty batches at a time, but of as few pairs as a round has only one. That needs a column of lengths and
`remove_unused_columns=False`, which bench_training_sides.py sees to: --trl '{"settings": {"train_sampling_strategy": ...}}'.
Liger's kernels need a GPU; fused AdamW is Trainer's default; both sides use all cores.
"""

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_data import TARGETS, Figures, architecture, cores, hh_rlhf, show, spread, write_pairs
from bench_side import DEVICES, KEEPS_MEMORY, Side
from rich.console import Console

from skyrm_jax.chat import Chat
from skyrm_jax.comparison import Comparison
from skyrm_jax.config import OptimizerConfig
from skyrm_jax.data.store import Store
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.prepare import PrepareOptions, prepare
from skyrm_jax.schedule import Schedule

TARGETS |= {"training": (">=", 1.6), "max_loss_gap": ("<=", 1e-3), "loss_fall": (">=", 0.2)}
MOST_TOKENS = 1024
"""Of a conversation, on both sides; the longest of hh-rlhf's harmless test pairs has 983."""

SIDES = "bench_training_sides.py"

TRL_BEST: Figures = {
    "settings": {
        "bf16": True,
        "per_device_train_batch_size": 4,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
        "torch_compile": True,
    },
    "model": {"dtype": "float32", "attn_implementation": "sdpa"},
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--shared", type=Path, default=os.environ.get("SKYRM_SHARED"), help="folder of real data")
    parser.add_argument("--tokenizer", help="folder instead of DIR/tokenizers/qwen3")
    parser.add_argument("--scratch", type=Path, help="where a temporary folder of about 1 GiB may be made")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="of both sides")
    parser.add_argument("--layers", type=int, default=4, help="training: of the 28")
    parser.add_argument("--pairs", type=int, default=256, help="training: how many a round goes through")
    parser.add_argument("--batch", type=int, default=64, help="training: pairs of a step")
    parser.add_argument(
        "--rounds", type=int, default=3, help="training: each side has so many turns, after one to warm up"
    )
    parser.add_argument(
        "--row-tokens", type=int, nargs="+", default=[4096, 2048, 1024], help="training: ours, as data.row_tokens"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 1, 1], help="training: ours, as data.rows")
    parser.add_argument("--remat", default="minimal", help="ours, as model.remat")
    parser.add_argument(
        "--trl", type=json.loads, default={}, help="training: JSON over TRL_BEST, to try other settings"
    )
    parser.add_argument("--width", type=int, default=1, help="the model's width is divided by this, for a quick look")
    parser.add_argument("--loss-layers", type=int, default=2, help="loss: of the 28")
    parser.add_argument("--loss-pairs", type=int, default=32, help="loss: how many are trained on, again and again")
    parser.add_argument("--loss-batch", type=int, default=8, help="loss: pairs of a step")
    parser.add_argument("--loss-rate", type=float, default=1e-4, help="loss: learning rate, constant")
    parser.add_argument("--steps", type=int, default=50, help="loss: how many")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    if args.shared is None:
        raise SystemExit("give the folder of real data: --shared DIR, or set SKYRM_SHARED")
    if missing := [name for name in ("trl", "accelerate", "torch", "datasets") if not importlib.util.find_spec(name)]:
        raise SystemExit(f"{', '.join(missing)} not installed: pip install trl")
    args.tokenizer = args.tokenizer or f"{args.shared}/tokenizers/qwen3"
    figures = Figures(cores=cores())
    for section in args.only:
        with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
            figures |= SECTIONS[section](args, Path(folder))
        if args.json:  # after every section, so that a later one that fails loses nothing
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(figures, indent=2) + "\n")
    show({name: value for name, value in figures.items() if not isinstance(value, dict)}, Console())


@contextmanager
def both(ours: Figures, trl: Figures, folder: Path, device: str) -> Iterator[tuple[Side, Side]]:
    """Both sides, ready to do steps from the same initial weights."""
    shared = {"export": str(folder / "export"), "folder": str(folder), "device": device}
    with ExitStack() as stack:
        sides = []
        for name, facts in (("ours", ours), ("trl", trl)):
            arguments = [name, json.dumps(facts | shared)]
            sides.append(stack.enter_context(Side(SIDES, arguments, folder / f"{name}.log", KEEPS_MEMORY, device)))
            sides[-1].answer()
        yield sides[0], sides[1]


def sample(shared: Path, count: int) -> list[Comparison]:
    """`count` pairs of hh-rlhf, evenly from all of the file."""
    comparisons = hh_rlhf(shared)
    if count > len(comparisons):
        raise SystemExit(f"hh-rlhf holds {len(comparisons)} pairs, fewer than {count}")
    return [comparisons[n * len(comparisons) // count] for n in range(count)]


def make_store(source: Path, model: Architecture, tokenizer: str) -> Store:
    """The prepared store of a file of pairs: every one of them, in its order."""
    options = PrepareOptions(
        [str(source)],
        str(source.with_suffix("")),
        tokenizer,
        pad_token_id=model.pad_token_id,
        max_tokens=MOST_TOKENS,
        empty="keep",
        held_out=0,
        dedup=False,
        workers=0,
    )
    with Path(os.devnull).open("w") as nowhere:
        store = prepare(options, Console(file=nowhere))
    if len(store.index.training()) != len(source.read_text(encoding="utf-8").splitlines()):
        raise SystemExit(f"{source}: not every pair is in the store, so the sides would not train on the same")
    return store


def model_of(layers: int, width: int, tokenizer: str) -> Architecture:
    """Qwen3-0.6B of fewer layers, and of a fraction of its width; the pad token is the one that TRL takes."""
    full, pad = architecture("qwen3_0.6b"), Chat.load(tokenizer).tokenizer.pad_token_id
    sizes = {name: getattr(full, name) // width for name in ("hidden", "mlp", "heads", "kv_heads")}
    return replace(full, layers=layers, pad_token_id=pad, **sizes)


def training(args: argparse.Namespace, folder: Path) -> Figures:
    """Pairs per second in bf16, round by round."""
    if args.pairs % args.batch:
        raise SystemExit(
            "--pairs must be a multiple of --batch, so that both sides go through the same pairs in a round"
        )
    model = model_of(args.layers, args.width, args.tokenizer)
    pairs = sample(args.shared, args.pairs)
    store = make_store(write_pairs(folder / "pairs.jsonl", pairs, len(pairs)), model, args.tokenizer)
    longest_first = np.argsort(-store.index.rows["longest"], kind="stable").tolist()
    chosen = {name: TRL_BEST[name] | args.trl.get(name, {}) for name in TRL_BEST}
    optimizer = OptimizerConfig(schedule="constant", warmup=0)
    ours = {
        "architecture": model.to_dict(),
        "tokenizer": args.tokenizer,
        "store": str(store.directory),
        "batch": args.batch,
        "epochs": args.rounds + 2,
        "model": {"compute_dtype": "bfloat16", "remat": args.remat},
        "optimizer": optimizer_facts(optimizer),
        "row_tokens": args.row_tokens,
        "rows": args.rows,
    }
    settings = trl_optimizer(optimizer) | chosen["settings"]
    accumulation = args.batch // settings["per_device_train_batch_size"]
    trl = {
        "source": str(write_pairs(folder / "sorted.jsonl", [pairs[n] for n in longest_first], len(pairs))),
        "epochs": args.rounds + 2,
        "model": chosen["model"],
        "settings": settings | {"gradient_accumulation_steps": accumulation},
    }
    steps = args.pairs // args.batch
    rounds: list[tuple[Figures, Figures]] = []
    with both(ours, trl, folder, args.device) as sides:
        for number in range(args.rounds + 1):
            order = sides if number % 2 else sides[::-1]
            found = {side.name: side.ask(steps=steps) for side in order}
            for what in ("pairs", "tokens"):
                if len({one[what] for one in found.values()}) > 1:
                    raise SystemExit(f"the sides did not do the same {what}: {found}")
            rounds.append((found["ours"], found["trl"]))
            shown = ", ".join(f"{one['pairs'] / one['seconds']:.3g} ({name})" for name, one in found.items())
            print(f"round {number}: pairs per second {shown}", flush=True)
    return training_figures(rounds[1:]) | {
        "training_layers": args.layers,
        "training_batch": args.batch,
        "training_ours": {name: ours[name] for name in ("model", "row_tokens", "rows")},
        "training_trl": chosen,
    }


def training_figures(rounds: Sequence[tuple[Figures, Figures]]) -> Figures:
    """Of the measured rounds, (ours, TRL's): both sides went through the same pairs in each."""

    def ratios(what: str) -> list[float]:
        return [trl[what] / ours[what] for ours, trl in rounds]

    figures: Figures = {
        "training": statistics.median(ratios("seconds")),
        "training_spread": spread(ratios("seconds")),
        "training_per_cpu_second": statistics.median(ratios("cpu_seconds")),
    }
    for name, runs in zip(("ours", "trl"), zip(*rounds, strict=True), strict=True):
        rates = [one["pairs"] / one["seconds"] for one in runs]
        figures |= {
            f"{name}_pairs_per_second": statistics.median(rates),
            f"{name}_pairs_per_second_spread": spread(rates),
            f"{name}_slots_per_pair": sum(one["slots"] for one in runs) / sum(one["pairs"] for one in runs),
            f"{name}_idle_cpu_seconds": sum(one["idle_cpu_seconds"] for one in runs),
        }
    return figures


def loss(args: argparse.Namespace, folder: Path) -> Figures:
    """Both loss curves in fp32."""
    model = model_of(args.loss_layers, args.width, args.tokenizer)
    pairs = sample(args.shared, args.loss_pairs)
    store = make_store(write_pairs(folder / "pairs.jsonl", pairs, len(pairs)), model, args.tokenizer)
    epochs = -(-args.steps * args.loss_batch // len(pairs))
    schedule = Schedule.of(store.index.training(), args.loss_batch, epochs, seed=0)
    order = [pairs[n] for step in range(args.steps) for n in schedule.ids_of(step).tolist()]
    optimizer = OptimizerConfig(schedule="constant", warmup=0, learning_rate=args.loss_rate)
    ours = {
        "architecture": model.to_dict(),
        "tokenizer": args.tokenizer,
        "store": str(store.directory),
        "batch": args.loss_batch,
        "epochs": epochs,
        "model": {"compute_dtype": "float32", "remat": args.remat},
        "optimizer": optimizer_facts(optimizer),
        "row_tokens": [2 * MOST_TOKENS],
        "rows": [1],
    }
    trl = {
        "source": str(write_pairs(folder / "ordered.jsonl", order, len(order))),
        "epochs": 1,
        "model": {"dtype": "float32", "attn_implementation": "sdpa"},
        "settings": trl_optimizer(optimizer)
        | {
            "bf16": False,
            "per_device_train_batch_size": args.loss_batch,
            "gradient_checkpointing": False,
            "train_sampling_strategy": "sequential",
        },
    }
    curves: dict[str, list[float]] = {"ours": [], "trl": []}
    with both(ours, trl, folder, args.device) as sides:
        for side in sides:
            found = side.ask(steps=args.steps)
            print(f"{side.name}: {args.steps} steps in {found['seconds']:.0f} s", flush=True)
            curves[side.name] = found["losses"]
    return loss_figures(curves["ours"], curves["trl"]) | {"loss_curves": curves}


def loss_figures(ours: Sequence[float], trl: Sequence[float]) -> Figures:
    """The largest difference, and by how much the curve that falls less does fall: its first step to its last five."""
    gaps = [abs(one - other) for one, other in zip(ours, trl, strict=True)]
    return {
        "max_loss_gap": max(gaps),
        "max_loss_gap_step": gaps.index(max(gaps)) + 1,
        "mean_loss_gap": statistics.mean(gaps),
        "loss_fall": min(curve[0] - statistics.mean(curve[-5:]) for curve in (ours, trl)),
        "loss_first": ours[0],
        "loss_last": ours[-1],
        "loss_steps": len(ours),
    }


def optimizer_facts(config: OptimizerConfig) -> Figures:
    return {name: getattr(config, name) for name in ("learning_rate", "schedule", "warmup", "weight_decay", "b1", "b2", "eps", "clip")}  # fmt: skip


def trl_optimizer(config: OptimizerConfig) -> Figures:
    """The same in Trainer's words. Both decay all matrices and no norm weight; both add eps outside the root."""
    return {
        "optim": "adamw_torch_fused",
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.schedule,
        "warmup_steps": 0,
        "weight_decay": config.weight_decay,
        "adam_beta1": config.b1,
        "adam_beta2": config.b2,
        "adam_epsilon": config.eps,
        "max_grad_norm": config.clip,
        "max_length": MOST_TOKENS,
    }


SECTIONS = {"training": training, "loss": loss}

if __name__ == "__main__":
    main()
