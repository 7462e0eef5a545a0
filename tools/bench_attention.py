"""What the tree's mask saves: live blocks against a causal kernel's, deeper trees against ours, and times where it runs.

    python tools/bench_attention.py --shared DIR [--only blocks depth times] [--json FILE]

DIR (or $SKYRM_SHARED) is the folder of real data: hh-rlhf, RMB, RM-Bench, JudgeBench and the Qwen3 tokenizer.

blocks  Pairs of blocks that are computed over those that a causal kernel computes, n (n + 1) / 2 of a row of n blocks: for
        rows packed with real comparisons, in the block of each backend, and for 32 responses of 1,024 tokens to a prompt of
        as many. `visible_*` is the share of a causal row's (query, key) pairs that the mask lets through: the least there is.
depth   Tokens of our trees, one shared prefix and then each response, over those of the deepest trees, in which responses
        share what they have in common with each other too.
times   The backend of this platform over real rows against the same backend over one causal sequence a row, which is what
        a causal kernel computes, and against JAX's own causal attention, on GPUs that of cuDNN too: forward, and forward with
        backward, 16 query and 8 kv heads of 128, in bfloat16, interleaved. `*_over_causal_*` is how many times faster than
        that causal sequence, `*_over_cudnn_*` than cuDNN's. Lists of live blocks, made once for all layers, are made before.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from bench_data import TARGETS, Figures, hh_rlhf, show, spread
from bench_index import timed
from bench_scoring import Ids, encoded, rmb
from rich.console import Console

from skyrm_jax import attention
from skyrm_jax.chat import Chat, Tree, build_tree, common_prefix
from skyrm_jax.comparison import Comparison
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.packing import Pieces, RowShape, pack
from skyrm_jax.rows import assemble

TARGETS["live_fraction_k32"] = ("<=", 0.10)
BACKENDS = ("cpu", "gpu", "tpu")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--shared", type=Path, default=os.environ.get("SKYRM_SHARED"), help="folder of real data")
    parser.add_argument("--row-tokens", type=int, default=16384, help="blocks, times: length of a row")
    parser.add_argument("--sample", type=int, default=600, help="no more comparisons of each data set")
    parser.add_argument("--rounds", type=int, default=5, help="times: measure each so often, in turn")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    if args.shared is None:
        raise SystemExit("give the folder of real data: --shared DIR, or set SKYRM_SHARED")
    args.shared, console = Path(args.shared), Console()
    chat = Chat.load(f"{args.shared}/tokenizers/qwen3")
    data = {name: encoded(chat, load(args.shared)[: args.sample]) for name, load in DATA.items()}
    figures = Figures()
    for section in args.only:
        figures |= SECTIONS[section](data, args)
    show(figures, console)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


# Real data


DATA: dict[str, Callable[[Path], list[Comparison]]] = {
    "hh_rlhf": hh_rlhf,
    "judgebench": lambda shared: BENCHMARKS["judgebench"].load(shared / "data/benchmarks"),
    "rm_bench": lambda shared: BENCHMARKS["rm-bench"].load(shared / "data/benchmarks"),
    "rmb": rmb,
}


def rows_of(trees: Sequence[Tree], tokens: int) -> np.ndarray:
    """`end` of rows packed with these trees: [rows, tokens]."""
    pieces = Pieces.of(trees, [0] * len(trees), tokens)
    rows = int(np.bincount(pieces.comparison).max())
    shape = RowShape(rows, tokens, leaves=tokens, pairs=1)
    whole = {number: (tree, ()) for number, tree in enumerate(trees)}
    batches = [assemble(plan, pieces, whole, range(rows)) for plan in pack(pieces, [shape], 1, 0)]
    return np.concatenate([batch.end for batch in batches])


# blocks


def blocks(data: dict[str, list[list[Ids]]], args: argparse.Namespace) -> Figures:
    """Live fractions."""
    figures = Figures()
    for name, comparisons in data.items():
        end = rows_of([build_tree(one, None) for one in comparisons], args.row_tokens)
        for backend in BACKENDS:
            figures[f"live_fraction_{name}_{backend}"] = live_fraction(end, attention.BACKENDS[backend])
        seen = (end - np.arange(end.shape[1])).sum(dtype=np.int64)
        figures[f"visible_{name}"] = float(seen / (len(end) * end.shape[1] * (end.shape[1] + 1) / 2))
    tokens = np.arange(33 * 1024)
    end = np.where(tokens < 1024, len(tokens), (tokens // 1024 + 1) * 1024)[None]
    fractions = {backend: live_fraction(end, attention.BACKENDS[backend]) for backend in BACKENDS}
    figures |= {f"live_fraction_k32_{backend}": fraction for backend, fraction in fractions.items()}
    return figures | {"live_fraction_k32": max(fractions.values())}


def live_fraction(end: np.ndarray, backend: Any) -> float:
    """Blocks that `backend` computes, over those on and below the diagonal."""
    start = np.asarray(backend.prepare(jnp.asarray(end, jnp.int32)).by_query.start)
    n = start.shape[1] - 1
    return float(start[:, -1].sum() / (len(end) * n * (n + 1) / 2))


# depth


def depth(data: dict[str, list[list[Ids]]], args: argparse.Namespace) -> Figures:
    """Our tokens over the fewest that any tree could have."""
    figures = Figures()
    for name, comparisons in data.items():
        ours = sum(len(build_tree(one, None).tokens) for one in comparisons)
        figures[f"tokens_over_unshared_{name}"] = ours / sum(len(ids) for one in comparisons for ids in one)
        figures[f"tokens_over_deepest_{name}"] = ours / sum(map(deepest, comparisons))
    return figures


def deepest(sequences: Sequence[Ids]) -> int:
    """Tokens of the trie of these sequences: in sorted order each adds what it does not share with the one before."""
    ordered = sorted({tuple(ids) for ids in sequences})
    shared = (common_prefix([np.array(one), np.array(other)]) for one, other in pairwise(ordered))
    return sum(map(len, ordered)) - sum(shared)


# times


def times(data: dict[str, list[list[Ids]]], args: argparse.Namespace) -> Figures:
    """Seconds of a causal row over those of real rows, on this platform's backend."""
    figures = Figures()
    name = attention.AUTO[jax.default_backend()]
    backend, H, G, E = attention.BACKENDS[name], 16, 8, 128
    q, k, v = (
        jax.random.normal(jax.random.key(seed), (1, args.row_tokens, heads, E), jnp.bfloat16)
        for seed, heads in enumerate((H, G, G))
    )

    def causal(q: Any, k: Any, v: Any, mask: Any, by: Literal["xla", "cudnn"] = "xla") -> Any:
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=by)

    def both_ways(attend: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
        backward = jax.grad(lambda *x: jnp.sum(attend(*x).astype(jnp.float32) ** 2), (0, 1, 2))
        return {"forward": jax.jit(attend), "backward": jax.jit(backward)}

    ends = {set_: rows_of([build_tree(x, None) for x in data[set_]], args.row_tokens)[:1] for set_ in data}
    ends["causal"] = np.full((1, args.row_tokens), args.row_tokens)
    masks = {set_: jax.block_until_ready(backend.prepare(jnp.asarray(end, jnp.int32))) for set_, end in ends.items()}
    runs = {(which, set_): (f, masks[set_]) for which, f in both_ways(backend.attend).items() for set_ in masks}
    if 4 * H * args.row_tokens**2 < 3e9:  # JAX's own attention makes all scores at once
        runs |= {(which, "jax_causal"): (f, masks["causal"]) for which, f in both_ways(causal).items()}
    if jax.default_backend() == "gpu":
        runs |= {(which, "cudnn"): (f, masks["causal"]) for which, f in both_ways(partial(causal, by="cudnn")).items()}
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for number in range(args.rounds + 1):
        for key, (run, mask) in runs.items():
            seconds = timed(lambda run=run, mask=mask: jax.block_until_ready(run(q, k, v, mask)))[1]
            if number:  # the first compiles
                taken[key].append(seconds)
    for which, set_ in runs:
        for peer in ("causal", "cudnn"):
            if set_ != peer and (which, peer) in taken:
                ratios = [p / s for p, s in zip(taken[which, peer], taken[which, set_], strict=True)]
                figures[f"{name}_{which}_over_{peer}_{set_}"] = statistics.median(ratios)
                figures[f"{name}_{which}_over_{peer}_{set_}_range"] = spread(ratios)
        figures[f"{name}_{which}_ms_{set_}"] = 1000 * statistics.median(taken[which, set_])
    return figures


SECTIONS = {"blocks": blocks, "depth": depth, "times": times}

if __name__ == "__main__":
    main()
