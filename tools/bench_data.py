"""How fast data is made ready: preparing, planning batches of forty million pairs, loading, and TRL's way of doing it.

    python tools/bench_data.py --shared DIR [--only tokenize index trl loader] [--scratch DIR] [--json FILE]

DIR (or $SKYRM_SHARED) is the folder of real data: data/preferences/hh-rlhf, data/benchmarks/judgebench, tokenizers/qwen3.

tokenize  Ids per second of `skyrm prepare`'s workers (parsing, rendering, tokenising, building trees, writing shards) over
          those of a bare `tokenizers` encode_batch of the rendered text, on the same cores: long on JudgeBench, short on
          hh-rlhf. Both sides count every conversation's ids, prompts unshared. The files are small, so they are repeated,
          and the workers are up and have made one shard before the clock starts, as those of a long run are.
          `_over_fast` is the same over encode_batch_fast, which leaves out the offsets that nobody asked for.
index     A store of so many pairs that only its index matters: opening it in a fresh process with its pages dropped from
          the page cache, planning batches on one core, memory once every part of the index was read, and what is planned.
          Conversations are lognormal (mean 1,000 tokens, sigma 0.9, at most 16,384) and independent; of the shorter one
          of a pair, a uniformly drawn part is the shared prompt. Trees longer than a row are cut, never dropped.
trl       Pairs per second from the same jsonl to batches on the host, one epoch, two processes each: `prepare` and
          `train_batches`, against RewardTrainer's own preparation and data loader. Both run at two sizes: the rate is that
          of the pairs the larger has more, so that starting processes is not in it; `with_start_up` is the whole run.
          Needs `pip install trl` and is left out without it.
loader    Tokens per second out of `train_batches`, two workers, over what a host of eight v5e chips consumes.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from bench_index import lengths, make_index, timed
from rich.console import Console
from rich.table import Table

from skyrm_jax.chat import Chat, build_tree
from skyrm_jax.comparison import Comparison, Preference, to_record
from skyrm_jax.config import parse_train_config
from skyrm_jax.data import index
from skyrm_jax.data.files import expand
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.readers import chunks
from skyrm_jax.data.record import StoredTree
from skyrm_jax.data.sources import read_comparisons
from skyrm_jax.data.store import Store, facts_of
from skyrm_jax.data.writing import ShardWriter, finish
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.prepare import PrepareOptions, prepare, shard
from skyrm_jax.train.setup import hf_config

TARGETS: dict[str, tuple[str, float]] = {
    "tokenize_ratio_long": (">=", 0.8),
    "tokenize_ratio_short": (">=", 0.6),
    "open_seconds": ("<=", 5),
    "plan_ms": ("<=", 50),
    "rss_gib": ("<=", 1),
    "padding_256": ("<=", 0.05),
    "padding_16": ("<=", 0.02),
    "step_imbalance": ("<=", 1.2),
    "vs_trl": (">=", 3),
    "loader_ratio": (">=", 10),
}
CONFIGS = Path(__file__).parents[1] / "configs"
CHIPS, CHIP_FLOPS, UTILISATION = 8, 197e12, 0.5
"""A host of TPU v5e, bfloat16; the utilisation is assumed, and high."""

Figures = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--shared", type=Path, default=os.environ.get("SKYRM_SHARED"), help="folder of real data")
    parser.add_argument("--tokenizer", help="folder or Hub id instead of DIR/tokenizers/qwen3")
    parser.add_argument("--scratch", type=Path, help="where a temporary folder of about 1 GiB may be made")
    parser.add_argument("--ids", type=int, default=4_000_000, help="tokenize: repeat the files to this many ids")
    parser.add_argument("--sample", type=int, help="tokenize: no more comparisons of each file, for a quick look")
    parser.add_argument("--rounds", type=int, default=5, help="tokenize, trl: measure both sides so often, in turn")
    parser.add_argument("--comparisons", type=int, default=40_000_000, help="index: how many pairs")
    parser.add_argument("--batch", type=int, default=10_240, help="index: pairs of a batch")
    parser.add_argument("--batches", type=int, default=300, help="index: how many are planned")
    parser.add_argument("--pairs", type=int, default=20_000, help="trl: pairs of an epoch")
    parser.add_argument("--tokens", type=int, default=40_000_000, help="loader: how many are loaded, twice")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    if args.shared is None and set(args.only) != {"index"}:
        raise SystemExit("give the folder of real data: --shared DIR, or set SKYRM_SHARED")
    args.tokenizer = args.tokenizer or f"{args.shared}/tokenizers/qwen3"
    console, figures = Console(), Figures(cores=cores())
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        for section in args.only:
            figures |= SECTIONS[section](args, Path(folder))
            if args.json:  # after every section, so that a later one that fails loses nothing
                args.json.parent.mkdir(parents=True, exist_ok=True)
                args.json.write_text(json.dumps(figures, indent=2) + "\n")
    show(figures, console)


def show(figures: Figures, console: Console) -> None:
    table = Table("figure", "value", "target", "")
    for name, value in figures.items():
        sign, target = TARGETS.get(name, ("", None))
        met = "" if target is None else "met" if (value >= target if sign == ">=" else value <= target) else "MISSED"
        values = value if isinstance(value, list) else [value]
        shown = " to ".join(v if isinstance(v, str) else f"{v:,.0f}" if v >= 1e4 else f"{v:.4g}" for v in values)
        table.add_row(name, shown, "" if target is None else f"{sign} {target:g}", met)
    console.print(table)


def cores() -> int:
    return len(os.sched_getaffinity(0))


def run(script: str, *arguments: Any) -> Figures:
    """What a script of this folder prints last, and the seconds and CPU seconds that it and all its processes take."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(json.dumps, arguments)]
    cpu = cpu_seconds()
    done, seconds = timed(lambda: subprocess.run(command, capture_output=True, text=True))
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": seconds, "cpu_seconds": cpu_seconds() - cpu}


def cpu_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spread(values: Sequence[float]) -> list[float]:
    return [min(values), max(values)]


# Real data


def hh_rlhf(shared: Path) -> list[Comparison]:
    file = shared / "data/preferences/hh-rlhf/harmless-base_test.jsonl.gz"
    return list(read_comparisons([file], "auto", True, Quarantine(None)))


def write_pairs(path: Path, comparisons: Sequence[Comparison], count: int) -> Path:
    """`count` records of whole conversations, the form that both we and TRL read; comparisons come again when they run out."""
    lines = []
    for one in comparisons[:count]:
        (pair,) = one.preferences
        sides = {"chosen": one.conversation(pair.winner), "rejected": one.conversation(pair.loser)}
        plain = {name: [{"role": m.role, "content": m.content} for m in side] for name, side in sides.items()}
        lines.append(json.dumps(plain) + "\n")
    path.write_text("".join(lines[number % len(lines)] for number in range(count)), encoding="utf-8")
    return path


# tokenize


def tokenize(args: argparse.Namespace, folder: Path) -> Figures:
    """Both ratios."""
    long = BENCHMARKS["judgebench"].load(args.shared / "data/benchmarks")[: args.sample]
    short = hh_rlhf(args.shared)[: args.sample]
    return tokenize_ratio("long", long, args, folder) | tokenize_ratio("short", short, args, folder)


def tokenize_ratio(name: str, comparisons: Sequence[Comparison], args: argparse.Namespace, folder: Path) -> Figures:
    """The ratio on these comparisons, repeated until they have `args.ids` ids."""
    chat = Chat.load(args.tokenizer)
    conversations = [c.conversation(k) for c in comparisons for k in range(len(c.responses))]
    ids = sum(map(len, chat.encode(conversations)))
    repeats = max(1, round(args.ids / ids))
    texts = [chat.render(conversation) for conversation in conversations] * repeats
    source = folder / f"{name}.jsonl"
    source.write_text("".join(json.dumps(to_record(c)) + "\n" for c in comparisons) * repeats, encoding="utf-8")
    options = PrepareOptions([str(source)], "", args.tokenizer, max_tokens=1 << 20, training=False)
    shards = folder / f"{name}.shards"
    shards.mkdir()
    ours, bare, fast = [], [], []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores(), context, shard.start_worker, (options, None, shards)) as pool:
        prepare_all(pool, source, shards)
        for _ in range(args.rounds):
            ours.append(prepare_all(pool, source, shards) / (ids * repeats))
            bare.append(encode_all(chat, texts, "encode_batch") / (ids * repeats))
            fast.append(encode_all(chat, texts, "encode_batch_fast") / (ids * repeats))
    made = [shard.facts(shards, number) for number in range(len(list(shards.glob("*.json"))))]
    if sum(int(one.rows["unshared"].sum()) for one in made if one) != ids * repeats:
        raise SystemExit(f"{name}: the prepared shards do not hold the ids that the bare tokenizer gives")
    ratios = [b / o for o, b in zip(ours, bare, strict=True)]
    return {
        f"tokenize_ratio_{name}": statistics.median(ratios),
        f"tokenize_ratio_{name}_spread": spread(ratios),
        f"tokenize_ratio_{name}_over_fast": statistics.median(b / o for o, b in zip(ours, fast, strict=True)),
        f"tokenize_ids_per_second_{name}": 1 / statistics.median(ours),
        f"bare_ids_per_second_{name}": 1 / statistics.median(bare),
        f"tokenize_ids_{name}": ids * repeats,
        f"tokenize_mean_tokens_{name}": ids / len(conversations),
    }


def prepare_all(pool: ProcessPoolExecutor, source: Path, folder: Path) -> float:
    """Seconds to make the shards of a file, at least four for each core so that all are busy to the end."""
    (opened,) = expand([str(source)])
    size = min(1 << 20, 1 + opened.nbytes // (4 * cores()))
    began = time.perf_counter()
    jobs = (shard.Job(n, opened.name, opened.short, chunk) for n, chunk in enumerate(chunks(opened, size)))
    for made in [pool.submit(shard.work, job) for job in jobs]:
        made.result()
    return time.perf_counter() - began


def encode_all(chat: Chat, texts: Sequence[str], method: str) -> float:
    """Seconds of the bare tokenizer, in threads on all cores; in parts, or it would keep every offset of every token."""
    encode = getattr(chat.tokenizer.backend_tokenizer, method)
    began = time.perf_counter()
    for first in range(0, len(texts), 4096):
        encode(texts[first : first + 4096], add_special_tokens=False)
    return time.perf_counter() - began


# index


def index_section(args: argparse.Namespace, folder: Path) -> Figures:
    """Opening, planning, memory, padding and balance, measured by bench_index.py."""
    store = folder / "index"
    make_index(store, args.comparisons)
    eight = architecture("qwen3_8b")
    facts = {
        "store": str(store),
        "batch": args.batch,
        "token_cost": eight.token_cost(),
        "token_flops": 2 * eight.layers * eight.layer_matrices(),
        "pair_flops": 4 * eight.layers * eight.heads * eight.head_dim,
    }
    many = run("bench_index.py", facts | {"shards": 256, "batches": args.batches})
    few = run("bench_index.py", facts | {"shards": 16, "batches": max(1, args.batches // 10)})
    shutil.rmtree(store)
    of_256 = ("open_seconds", "open_seconds_cached", "plan_ms", "plan_ms_spread", "rss_gib", "rss_gib_before")
    imbalance = ("step_imbalance", "step_imbalance_bound", "step_imbalance_as_run")
    return {
        "index_gib": args.comparisons * index.ROW.itemsize / 2**30,
        **{name: many[name] for name in of_256},
        **{f"{name}_{n}": one[name] for name in ("padding", "micro_batches") for n, one in ((256, many), (16, few))},
        **{name: many[name] for name in imbalance},
        **{f"{name}_16": few[name] for name in ("plan_ms", *imbalance)},
        "trees_cut_per_batch": many["trees_cut_per_batch"],
    }


# trl


def trl(args: argparse.Namespace, folder: Path) -> Figures:
    """Ours against TRL's."""
    if missing := [name for name in ("trl", "accelerate", "torch", "datasets") if not importlib.util.find_spec(name)]:
        print(f"trl is left out: {', '.join(missing)} not installed (pip install trl)", flush=True)
        return {}
    comparisons = hh_rlhf(args.shared)
    few = max(1, args.pairs // 4)
    files = {n: write_pairs(folder / f"{n}.jsonl", comparisons, n) for n in (few, args.pairs)}
    found: dict[tuple[str, int], list[Figures]] = {(side, count): [] for side in ("ours", "trl") for count in files}
    for _ in range(args.rounds):
        for (side, count), runs in found.items():
            place = folder / "trl"
            place.mkdir()
            facts = {"source": str(files[count]), "folder": str(place), "tokenizer": args.tokenizer}
            runs.append(run("bench_epoch.py", side, facts))
            shutil.rmtree(place)
            if runs[-1]["pairs"] != count:
                raise SystemExit(f"{side} made batches of {runs[-1]['pairs']} pairs out of {count}")

    def median(side: str, count: int, what: str = "seconds") -> float:
        return statistics.median(one[what] for one in found[side, count])

    def per_second(side: str, what: str) -> float:
        # What more pairs take longer: start-up, the same for both counts, is not in it.
        return (args.pairs - few) / max(1e-9, median(side, args.pairs, what) - median(side, few, what))

    figures: Figures = {
        "vs_trl": per_second("ours", "seconds") / per_second("trl", "seconds"),
        "vs_trl_with_start_up": median("trl", args.pairs) / median("ours", args.pairs),
        "vs_trl_cpu": per_second("ours", "cpu_seconds") / per_second("trl", "cpu_seconds"),
        "vs_trl_pairs": args.pairs,
    }
    for side in ("ours", "trl"):
        figures[f"{side}_pairs_per_second"] = per_second(side, "seconds")
        figures[f"{side}_pairs_per_cpu_second"] = per_second(side, "cpu_seconds")
        figures[f"{side}_start_up_seconds"] = median(side, few) - few / per_second(side, "seconds")
        figures[f"{side}_seconds_spread"] = spread([one["seconds"] for one in found[side, args.pairs]])
    return figures


# loader


def loader(args: argparse.Namespace, folder: Path) -> Figures:
    """Loading long comparisons (the index's lengths) and short ones (hh-rlhf)."""
    model = architecture("qwen3_0.6b")
    options = PrepareOptions(
        [str(write_pairs(folder / "short.jsonl", hh_rlhf(args.shared), 2312))], str(folder / "short"), args.tokenizer, workers=0
    )  # fmt: skip
    with Path(os.devnull).open("w") as nowhere:
        prepare(options, Console(file=nowhere))
    write_store(folder / "long", 4096)
    long, short = (
        run("bench_epoch.py", "load", {"store": str(folder / name), "chips": CHIPS, "tokens": args.tokens})
        for name in ("long", "short")
    )
    figures = Figures()
    for name, one in (("", long), ("_short", short)):
        per_token = 3 * (
            2 * model.layers * model.layer_matrices()
            + 4 * model.layers * model.heads * model.head_dim * one["visible_per_token"]
        )
        needed = CHIPS * CHIP_FLOPS * UTILISATION / per_token
        print(
            f"loader{name}: {CHIPS} chips x {CHIP_FLOPS / 1e12:g} TFLOP/s x {UTILISATION:.0%} / (3 x (2 x "
            f"{model.layers * model.layer_matrices():,} parameters in matrices + 4 x {model.layers} layers x "
            f"{model.heads * model.head_dim} x {one['visible_per_token']:,.0f} keys that a token sees) = "
            f"{per_token / 1e9:.2f} GFLOP a token) = {needed:,.0f} tokens/s needed; "
            f"{one['tokens_per_second']:,.0f} tokens/s loaded"
        )
        figures |= {
            f"loader_ratio{name}": one["tokens_per_second"] / needed,
            f"loader_tokens_per_second{name}": one["tokens_per_second"],
            f"v5e_tokens_per_second{name}": needed,
        }
    return figures


def write_store(folder: Path, comparisons: int) -> Store:
    """A store of pairs of random tokens, of the index's lengths."""
    rng = np.random.default_rng(0)
    drawn, prompts = lengths(rng, comparisons)
    partial_folder = folder.with_name(folder.name + ".partial")
    partial_folder.mkdir()
    path = partial_folder / "0.trees"
    with ShardWriter(path) as writer:
        for (one, other), prompt in zip(drawn.tolist(), prompts.tolist(), strict=True):
            ids = rng.integers(0, 150_000, one + other - prompt, np.int32)
            sides = [ids[:one], np.concatenate([ids[:prompt], ids[one:]])]
            writer.add(StoredTree(build_tree(sides, None), (Preference(0, 1),)))
    nothing = np.zeros(0, np.int64)
    return finish(
        partial_folder,
        folder,
        [facts_of(path) | {"records": comparisons}],
        [writer.rows],
        [("random", comparisons)],
        nothing,
        nothing,
        {},
    )


def architecture(name: str) -> Architecture:
    """That of a published model, from its configuration."""
    given = parse_train_config(["--config", str(CONFIGS / f"{name}.yaml")]).model.architecture
    return Architecture.from_hf(hf_config(given))


SECTIONS = {"tokenize": tokenize, "index": index_section, "trl": trl, "loader": loader}

if __name__ == "__main__":
    main()
