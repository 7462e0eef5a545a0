"""How fast comparisons are scored: our trees against transformers, and against our own rows without sharing.

    python tools/bench_scoring.py --shared DIR [--sets pairs best_of_n k16] [--only transformers sharing] [--json FILE]

DIR (or $SKYRM_SHARED) is the folder of real data: data/preferences/hh-rlhf, data/benchmarks/rmb, tokenizers/qwen3. The model
has the shape of Qwen3-0.6B and random weights, the same for both sides, in bfloat16. Each data set begins as the token ids of
whole conversations and ends as their rewards. Building trees, packing, sorting and padding are timed; tokenising, which both
sides need alike, and loading and compiling, which a long run does once, are not. Each side is a process of its own, which
rests while the other works, and every round measures all of them in turn: ratios are medians of the rounds' ratios.

pairs      hh-rlhf: a sample that has the lengths and the token ratio of the whole.
best_of_n  RMB's best-of-N sets, 3 to 7 responses to a prompt: a sample in the same way.
k16        One prompt of 512 tokens and 16 responses of 120 to 180, all of them text from RMB.

transformers  `AutoModelForSequenceClassification`, bfloat16, all cores, right-padded batches sorted by length, at the best of
              eager and sdpa attention and batches of 1, 4, 8 and 16 (each is tried on the whole data set, those that come
              near the best once more, and no larger ones once they are far from it). The figure of a data set is their seconds over ours.
sharing       Our code against our code: the same forward pass of one conversation a row, padded to the longest of the 8 in
              its batch and up to a multiple of 64 tokens. `sharing_efficiency` is the part of the token ratio (unshared tokens
              over tree tokens, what sharing can save) that the clock sees, the least of the data sets. `_packed` is the same
              against conversations packed in rows as trees are: sharing alone, with no padding in it.

torch's threads sleep while they wait for each other (OMP_WAIT_POLICY=PASSIVE, unless the environment says otherwise): spinning,
its default, makes torch two or three times slower as soon as anything else runs. `_cpu` is a ratio of CPU seconds, which other
work disturbs less. `fill` is tokens over computed token slots. `idle_cpu` is what a side that waits takes of one core.
`reward_gap` is the greatest difference of our rewards from theirs, over the rewards' standard deviation; `_fp32` are those of
either side from transformers in fp32, on the 8 shortest conversations.
"""

import argparse
import json
import math
import os
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_convert import RandomWeights
from bench_data import TARGETS, Figures, cores, hh_rlhf, show, spread
from bench_side import Side
from rich.console import Console
from rich.table import Table

from skyrm_jax.chat import Chat, build_tree
from skyrm_jax.comparison import Comparison
from skyrm_jax.config import parse_train_config
from skyrm_jax.convert.hf_export import write_hf
from skyrm_jax.convert.names import HfTensor
from skyrm_jax.convert.weights import DTYPES, EVERYTHING
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.train.setup import hf_config

TARGETS |= {"pairs": (">=", 1.6), "best_of_n": (">=", 1.4), "k16": (">=", 2.8), "sharing_efficiency": (">=", 0.9)}
SECTIONS = ("transformers", "sharing")
CONFIG = Path(__file__).parents[1] / "configs" / "qwen3_0.6b.yaml"
ATTENTIONS, BATCHES, NEAR, FAR = ("eager", "sdpa"), (1, 4, 8, 16), 1.15, 1.3
LAYOUTS = ("padded", "packed")
PROMPT, RESPONSES, RESPONSE = 512, 16, (120, 180)
DRAWS = 64
PEER, ENVIRONMENT = "bench_scoring_peer.py", {"OMP_WAIT_POLICY": "PASSIVE"}

Ids = list[int]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--shared", type=Path, default=os.environ.get("SKYRM_SHARED"), help="folder of real data")
    parser.add_argument("--scratch", type=Path, help="where a temporary folder of 1.2 GB may be made")
    parser.add_argument("--config", default=str(CONFIG), help="whose model.architecture is taken")
    parser.add_argument("--layers", type=int, help="fewer than the config has, for a quick look")
    parser.add_argument("--pairs", type=int, default=48, help="pairs: comparisons of the sample")
    parser.add_argument("--best-of-n", type=int, default=24, help="best_of_n: comparisons of the sample")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    if args.shared is None:
        raise SystemExit("give the folder of real data: --shared DIR, or set SKYRM_SHARED")
    console, figures = Console(), Figures()
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        for found in measure(args, Path(folder), console):
            figures |= found
            if args.json:  # after every data set, so that a later one that fails loses nothing
                args.json.parent.mkdir(parents=True, exist_ok=True)
                args.json.write_text(json.dumps(figures, indent=2) + "\n")
    show(figures, console)


def measure(args: argparse.Namespace, folder: Path, console: Console) -> Iterator[Figures]:
    """The figures, data set by data set; the model and the sides' standard error are written in `folder`."""
    architecture = Architecture.from_hf(hf_config(parse_train_config(["--config", args.config]).model.architecture))
    architecture = replace(architecture, layers=args.layers or architecture.layers)
    checkpoint = folder / "model"
    write_hf(checkpoint, SmallWeights(architecture), args.shared / "tokenizers/qwen3")
    chat = Chat.load(checkpoint, architecture.pad_token_id)
    policy = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    yield Figures(cores=cores(), layers=architecture.layers, rounds=args.rounds, omp_wait_policy=policy)
    sets = []
    with ExitStack() as stack:
        sides = {
            side: stack.enter_context(Side(PEER, [side, str(checkpoint)], folder / f"{side}.log", ENVIRONMENT))
            for side in ("ours", *(["transformers"] if "transformers" in args.only else []))
        }
        for name in args.sets:
            sets.append(one := DataSet.of(name, *SETS[name](chat, args)))
            found = prepare(one, sides, architecture.heads, args, console)
            for number in range(args.rounds):
                one.round(sides, args.only)
                console.print(f"{name}, round {number + 1} of {args.rounds}: {one.latest()}", highlight=False)
            yield found | one.figures(args.only)
    runs = [one for data in sets for runs in data.runs.values() for one in runs]
    total = Figures(idle_cpu=sum(one["idle_cpu_seconds"] for one in runs) / sum(one["idle_seconds"] for one in runs))
    for suffix in ("", "_packed") if "sharing" in args.only else ():
        name = f"sharing_efficiency{suffix}"
        total[name] = min(data.figures(args.only)[f"{data.name}_{name}"] for data in sets)
    yield total


# The model


@dataclass(frozen=True)
class SmallWeights(RandomWeights):
    """Weights as a model starts training with, and a head that is not zero: normal of 0.02, norms one."""

    def read(self, tensor: HfTensor, rows: slice = EVERYTHING) -> np.ndarray:
        drawn = super().read(tensor, rows)
        if "norm" in tensor.name:
            return np.ones(drawn.shape, DTYPES["bfloat16"])
        rng = np.random.default_rng(drawn.reshape(-1)[:8].view(np.uint16).tolist())
        return (0.02 * rng.standard_normal(drawn.shape, np.float32)).astype(DTYPES["bfloat16"])


# Data


def pairs(chat: Chat, args: argparse.Namespace) -> tuple[list[list[Ids]], int]:
    return encoded(chat, hh_rlhf(args.shared)), args.pairs


def best_of_n(chat: Chat, args: argparse.Namespace) -> tuple[list[list[Ids]], int]:
    return encoded(chat, rmb(args.shared)), args.best_of_n


def k16(chat: Chat, args: argparse.Namespace) -> tuple[list[list[Ids]], int]:
    answers = [answer.content for one in rmb(args.shared) for answer, *_ in one.responses]
    return encoded(chat, [sixteen(chat, answers)]), 1


SETS: dict[str, Callable[[Chat, argparse.Namespace], tuple[list[list[Ids]], int]]] = {
    "pairs": pairs,
    "best_of_n": best_of_n,
    "k16": k16,
}
"""Each data set: the conversations of all its comparisons as ids, and how many comparisons are scored."""


def rmb(shared: Path) -> list[Comparison]:
    """The best-of-N records: the best response, then the losers."""
    return [c for c in BENCHMARKS["rmb"].load(shared / "data/benchmarks") if c.category.startswith("BoN_set")]


def sixteen(chat: Chat, answers: Sequence[str]) -> Comparison:
    """One prompt of about PROMPT tokens with its template, and RESPONSES responses of RESPONSE, cut from these texts."""
    rng = random.Random(0)
    tokenizer = chat.tokenizer.backend_tokenizer

    def text(tokens: int) -> str:
        ids: Ids = []
        while len(ids) < tokens:
            ids += tokenizer.encode(rng.choice(answers) + "\n", add_special_tokens=False).ids
        return str(tokenizer.decode(ids[:tokens]))

    template = chat.tree(Comparison.of("a", ["b"]))
    return Comparison.of(text(PROMPT - len(template.tokens)), [text(rng.randint(*RESPONSE)) for _ in range(RESPONSES)])


def encoded(chat: Chat, comparisons: Sequence[Comparison]) -> list[list[Ids]]:
    """The ids of every conversation of every comparison."""
    ids = iter(chat.encode([one.conversation(k) for one in comparisons for k in range(len(one.responses))]))
    return [[next(ids) for _ in one.responses] for one in comparisons]


def sample(comparisons: Sequence[list[Ids]], count: int) -> list[list[Ids]]:
    """`count` comparisons like the whole: one drawn from each of as many equal parts by length, and of DRAWS such samples
    the one that comes nearest to the whole in mean tokens, with and without sharing."""
    tokens = np.array([tree_tokens([one]) for one in comparisons])
    parts = np.array_split(np.argsort(tokens[:, 0], kind="stable"), min(count, len(tokens)))
    rng = np.random.default_rng(0)
    samples = [sorted(int(rng.choice(part)) for part in parts) for _ in range(DRAWS)]
    best = min(samples, key=lambda drawn: float(np.abs(tokens[drawn].mean(0) / tokens.mean(0) - 1).sum()))
    return [comparisons[number] for number in best]


def tree_tokens(comparisons: Sequence[list[Ids]]) -> tuple[int, int]:
    """Tokens without sharing, and with it."""
    trees = [build_tree(one, None) for one in comparisons]
    return sum(tree.conversation_tokens for tree in trees), sum(len(tree.tokens) for tree in trees)


def token_ratio(comparisons: Sequence[list[Ids]]) -> float:
    """Tokens without sharing over tokens with it."""
    unshared, shared = tree_tokens(comparisons)
    return unshared / shared


class DataSet:
    """The comparisons of one figure, how transformers scores them best, and what was measured."""

    def __init__(self, name: str, comparisons: list[list[Ids]], ratio_of_all: float):
        self.name, self.comparisons, self.ratio_of_all = name, comparisons, ratio_of_all
        self.lengths = [len(ids) for one in comparisons for ids in one]
        self.ratio = token_ratio(comparisons)
        self.best: Figures = {}
        self.runs: dict[str, list[Figures]] = {}

    @classmethod
    def of(cls, name: str, comparisons: list[list[Ids]], count: int) -> "DataSet":
        return cls(name, sample(comparisons, count), token_ratio(comparisons))

    def round(self, sides: dict[str, Side], sections: Sequence[str]) -> None:
        """One measurement of each, in turn."""
        self._run("ours", sides["ours"], layout="trees")
        if "transformers" in sections:
            self._run("transformers", sides["transformers"], **self.best)
        for layout in LAYOUTS if "sharing" in sections else ():
            self._run(layout, sides["ours"], layout=layout)

    def _run(self, what: str, side: Side, **setting: Any) -> None:
        self.runs.setdefault(what, []).append(side.ask(do="score", name=self.name, **setting))

    def latest(self) -> str:
        return ", ".join(f"{what} {runs[-1]['seconds']:.1f} s" for what, runs in self.runs.items())

    def over_ours(self, what: str, unit: str = "seconds") -> list[float]:
        """Each round's seconds of `what` over those of our trees."""
        return [one[unit] / own[unit] for one, own in zip(self.runs[what], self.runs["ours"], strict=True)]

    def figures(self, sections: Sequence[str]) -> Figures:
        """What the issue names, and what explains it."""
        name, tokens, found = self.name, sum(self.lengths), Figures()
        if "transformers" in sections:
            ratios = self.over_ours("transformers")
            found[name] = statistics.median(ratios)
            found[f"{name}_spread"] = spread(ratios)
            found[f"{name}_cpu"] = statistics.median(self.over_ours("transformers", "cpu_seconds"))
            found[f"{name}_reward_gap"] = gap(self.runs["ours"][0]["rewards"], self.runs["transformers"][0]["rewards"])
        found |= {f"{name}_token_ratio": self.ratio, f"{name}_token_ratio_of_all": self.ratio_of_all}
        for layout, suffix in zip(LAYOUTS, ("", "_packed"), strict=True) if "sharing" in sections else ():
            parts = [ratio / self.ratio for ratio in self.over_ours(layout)]
            found[f"{name}_sharing_efficiency{suffix}"] = statistics.median(parts)
            found[f"{name}_sharing_efficiency{suffix}_spread"] = spread(parts)
        for what, runs in self.runs.items():
            seconds = statistics.median(one["seconds"] for one in runs)
            computed = tokens / self.ratio if what == "ours" else tokens
            found |= {
                f"{name}_{what}_conversations_per_second": len(self.lengths) / seconds,
                f"{name}_{what}_tokens_per_second": tokens / seconds,
                f"{name}_{what}_seconds_spread": spread([one["seconds"] for one in runs]),
                f"{name}_{what}_fill": computed / runs[0]["slots"],
            }
        return found


def prepare(one: DataSet, sides: dict[str, Side], heads: int, args: argparse.Namespace, console: Console) -> Figures:
    """Hands a data set to both sides, compiles what ours needs, and finds the setting that transformers is fastest at."""
    for side in sides.values():
        side.ask(do="take", name=one.name, comparisons=one.comparisons)
    layouts = ("trees", *(LAYOUTS if "sharing" in args.only else ()))
    first = {layout: sides["ours"].ask(do="score", name=one.name, layout=layout) for layout in layouts}
    for layout in layouts[1:]:
        if gap(first["trees"]["rewards"], first[layout]["rewards"]) > MOST_GAP:
            raise SystemExit(f"{one.name}: trees and {layout} rows do not get the same rewards")
    figures: Figures = {
        f"{one.name}_comparisons": len(one.comparisons),
        f"{one.name}_conversations": len(one.lengths),
        f"{one.name}_mean_tokens": sum(one.lengths) / len(one.lengths),
        f"{one.name}_first_seconds": first["trees"]["seconds"],
    }
    if "transformers" not in sides:
        return figures
    peer = sides["transformers"]
    shortest = sorted(range(len(one.lengths)), key=lambda number: one.lengths[number])[:8]
    exact = peer.ask(do="exact", name=one.name, part=shortest)["rewards"]
    peer.ask(do="score", name=one.name, part=shortest)  # the first run is slower
    found = search(
        lambda **setting: peer.ask(do="score", name=one.name, **setting)["seconds"],
        partial(scores_fit, one.lengths, heads),
    )
    attention, batch = min(found, key=lambda setting: found[setting])
    one.best = {"attention": attention, "batch": batch}
    table = Table(f"{one.name}: seconds", *map(str, BATCHES))
    for kind in ATTENTIONS:
        table.add_row(kind, *(f"{found[kind, size]:.2f}" for size in BATCHES))
    console.print(table, f"transformers: {attention}, batches of {batch}")
    figures[f"{one.name}_transformers_setting"] = f"{attention}, {batch}"
    tried = {setting: seconds for setting, seconds in found.items() if seconds < math.inf}
    figures |= {f"{one.name}_search_{kind}_{size}": seconds for (kind, size), seconds in tried.items()}
    theirs = peer.ask(do="score", name=one.name, part=shortest, **one.best)["rewards"]
    gaps = {
        "ours": gap([first["trees"]["rewards"][number] for number in shortest], exact),
        "transformers": gap(theirs, exact),
    }
    figures |= {f"{one.name}_reward_gap_{side}_fp32": value for side, value in gaps.items()}
    if not gaps["ours"] <= max(MOST_GAP, 3 * gaps["transformers"]):
        raise SystemExit(f"{one.name}: the sides do not compute the same function: from fp32 they are {gaps} away")
    return figures


MOST_GAP = 0.25
"""Greatest difference of rewards, in their standard deviations, that bfloat16 may explain."""


def search(
    seconds: Callable[..., float],
    fits: Callable[[str, int], bool] = lambda *_: True,
    sizes: Sequence[int] = BATCHES,
) -> dict[tuple[str, int], float]:
    """The least seconds of each setting: one run of each, and one more of those within NEAR of the best.

    Larger batches than one that took FAR of the best of its kind, or that do not fit, are not tried: infinite.
    """
    found = {(kind, size): math.inf for kind in ATTENTIONS for size in sizes}
    for kind in ATTENTIONS:
        least = math.inf
        for size in sizes:
            if not fits(kind, size):
                break
            found[kind, size] = seconds(attention=kind, batch=size)
            if found[kind, size] > FAR * least:
                break
            least = min(least, found[kind, size])
    best = min(found.values())
    for (kind, size), first in found.items():
        if first <= NEAR * best:
            found[kind, size] = min(first, seconds(attention=kind, batch=size))
    return found


def scores_fit(lengths: Sequence[int], heads: int, kind: str, size: int, itemsize: int = 2) -> bool:
    """Whether eager attention's scores, of so many bytes each and for the softmax in fp32, and the softmax, take a sixth of
    memory at most: a third was too much for a process that keeps what it has allocated."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return kind != "eager" or (4 + 2 * itemsize) * size * heads * max(lengths) ** 2 <= memory / 6


def gap(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The greatest difference, in standard deviations of `theirs`."""
    difference = np.abs(np.asarray(ours) - np.asarray(theirs)).max()
    return float(difference / max(np.std(theirs), 1e-9))


if __name__ == "__main__":
    main()
