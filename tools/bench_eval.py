"""How fast the benchmarks are scored: as `skyrm eval` does it, against transformers.

    python tools/bench_eval.py --shared DIR [--comparisons N] [--windows N] [--layers 4] [--device gpu] [--resume FILE] [--json FILE]

DIR (or $SKYRM_SHARED) is the folder of real data, whose data/benchmarks is scored: all of it, or of each benchmark a sample
that has the lengths and the token ratio of the whole. The model has the shape of Qwen3-0.6B, cut to `--layers`, and random
weights, the same for both sides, in bfloat16 or, for CPUs that do not multiply it, `--dtype float32`. Each window of
comparisons, as large as those of `skyrm eval`, begins as the token ids of whole conversations and ends as their rewards.
Building trees, packing, sorting and padding are timed; tokenising, which both sides need alike, and loading and compiling,
which a long run does once, are not.

The other side is `AutoModelForSequenceClassification`, one conversation at a time or in batches sorted by length, at the best
of eager and sdpa attention and batches of 1, 4, 8 and 16, on a GPU up to 128, for each benchmark. It is found on runs of
conversations as a window's batches have them, neighbours in length, so that a batch has no more padding than there, and on
the longest ones of a window for those that come near (`_search_<attention>_<batch>`: the seconds of a window by these runs). The sides are processes of their own and take turns, window by window. `ratio` is all of
their seconds over all of ours, a sampled benchmark counted as if whole; `ratio_<benchmark>` is that of one, and `_spread` the least
and the greatest of its windows. `reward_gap` is the greatest difference of rewards over their standard deviation.

All files take hours on two cores: with `--resume FILE` each window is written there when it is measured, and a run that was stopped
goes on. What another kind of machine, or other versions, measured is not taken.
"""

import argparse
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
from bench_data import TARGETS, Figures, cores, show, spread
from bench_scoring import (
    BATCHES,
    CONFIG,
    ENVIRONMENT,
    MOST_GAP,
    PEER,
    Ids,
    SmallWeights,
    encoded,
    gap,
    sample,
    scores_fit,
    search,
)
from bench_side import DEVICES, KEEPS_MEMORY, Side
from rich.console import Console

from skyrm_jax.chat import Chat
from skyrm_jax.config import parse_train_config
from skyrm_jax.convert.hf_export import write_hf
from skyrm_jax.eval.benchmarks import BENCHMARKS, select
from skyrm_jax.eval.sets import WINDOW
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.train.setup import hf_config

TARGETS |= {"ratio": (">=", 1.2)}
SIZES = {"cpu": BATCHES, "gpu": (*BATCHES, 32, 64, 128)}
"""Batches that transformers is tried with."""
PLACES, NEAR = 3, 1.1
"""Runs of conversations, each of the largest batch, that it is tried on first: long, middling and short ones of a window; and
how near to the best a setting must come there to be tried on the longest."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("SKYRM_SHARED"), help="folder of real data")
    parser.add_argument("--scratch", type=Path, help="where a temporary folder of 1 GB may be made")
    parser.add_argument("--config", default=str(CONFIG), help="whose model.architecture is taken")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of both sides")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="of both sides")
    parser.add_argument("--comparisons", type=int, help="of each benchmark at most, for a shorter look")
    parser.add_argument(
        "--window", type=int, default=WINDOW, help=f"comparisons in one (default {WINDOW}, as eval has it)"
    )
    parser.add_argument("--windows", type=int, help="of each benchmark at most, spread over it, for a shorter look")
    parser.add_argument("--resume", type=Path, help="file of the windows that are measured")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    if args.shared is None:
        raise SystemExit("give the folder of real data: --shared DIR, or set SKYRM_SHARED")
    console = Console()
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        figures = measure(args, Path(folder), console)
    show(figures, console)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(args: argparse.Namespace, folder: Path, console: Console) -> Figures:
    """The figures; the model and the sides' standard error are written in `folder`."""
    architecture = Architecture.from_hf(hf_config(parse_train_config(["--config", args.config]).model.architecture))
    architecture = replace(architecture, layers=args.layers)
    checkpoint = folder / "model"
    write_hf(checkpoint, SmallWeights(architecture), args.shared / "tokenizers/qwen3")
    chat = Chat.load(checkpoint, architecture.pad_token_id)
    data = args.shared / "data/benchmarks"
    same = {"config": Path(args.config).name, "machine": machine()}
    same |= {name: getattr(args, name) for name in ("layers", "dtype", "device")}
    measured = Measured(args.resume, **same)
    figures = Figures(cores=cores(), window=args.window, **same)
    seconds: dict[str, list[tuple[float, float]]] = {}
    scale: dict[str, float] = {}
    how = [str(checkpoint), args.dtype, args.device]
    with ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(
                Side(PEER, [side, *how], folder / f"{side}.log", ENVIRONMENT | KEEPS_MEMORY, args.device)
            )
            for side in ("ours", "transformers")
        )
        for name in select(["all"], data)[0]:
            ids = encoded(chat, BENCHMARKS[name].load(data))
            chosen = ids if args.comparisons is None else sample(ids, args.comparisons)
            starts = list(range(0, len(chosen), args.window))
            if args.windows:
                picked = np.linspace(0, len(starts) - 1, min(args.windows, len(starts))).round().astype(int)
                starts = [starts[number] for number in picked]
            find = partial(
                best_setting, sample(ids, args.window), theirs, architecture.heads, args.dtype, SIZES[args.device]
            )
            searched = measured(find, setting_of=name, of=len(ids), size=args.window)
            setting = {key: searched[key] for key in ("attention", "batch")}
            console.print(f"{name}: {len(chosen):,} of {len(ids):,}; transformers at {setting}", highlight=False)
            found, scored = [], 0
            for start in starts:
                window = chosen[start : start + args.window]
                find = partial(score, name, window, ours, theirs, setting)
                found.append(measured(find, window_of=name, of=len(chosen), start=start, size=args.window, **setting))
                scored += len(window)
            scale[name] = len(ids) / scored
            seconds[name] = [(one["ours"], one["theirs"]) for one in found]
            figures |= {
                f"{name}_comparisons": scored,
                f"{name}_of": len(ids),
                f"{name}_token_ratio": sum(one["unshared"] for one in found) / sum(one["tokens"] for one in found),
                f"{name}_transformers_setting": ", ".join(map(str, setting.values())),
                **{f"{name}_{key}": value for key, value in searched.items() if key not in setting},
                f"{name}_reward_gap": max(one["gap"] for one in found),
                f"ratio_{name}": ratio(seconds[name]),
                f"ratio_{name}_spread": spread([t / o for o, t in seconds[name]]),
            }
            console.print(f"{name}: {figures[f'ratio_{name}']:.2f}", highlight=False)
    everything = [(scale[name] * o, scale[name] * t) for name, part in seconds.items() for o, t in part]
    figures["ratio"] = ratio(everything)
    figures |= {"ours_seconds": sum(o for o, _ in everything), "transformers_seconds": sum(t for _, t in everything)}
    return figures


class Measured:
    """Calls that need not be made twice: what they returned is kept in a file, if one is given, by what they were asked."""

    def __init__(self, path: Path | None, **always: str | int) -> None:
        self._path, self._always = path, always
        self._known: dict[str, Figures] = {}
        if path and path.is_file():
            lines = path.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]  # a kill may have cut the last one short
            path.write_text("".join(whole))
            self._known = {json.dumps(record["asked"]): record["found"] for record in map(json.loads, whole)}

    def __call__(self, call: Callable[[], Figures], **asked: str | int) -> Figures:
        asked = self._always | asked
        key = json.dumps(asked)
        if key not in self._known:
            self._known[key] = call()
            if self._path:
                with self._path.open("a") as file:
                    file.write(json.dumps({"asked": asked, "found": self._known[key]}) + "\n")
        return self._known[key]


def best_setting(window: list[list[Ids]], theirs: Side, heads: int, dtype: str, sizes: Sequence[int]) -> Figures:
    """The attention and batch at which transformers takes the least time for a window, and what the nearest would take."""
    order = sorted((ids for one in window for ids in one), key=len, reverse=True)
    tail, rest = order[: max(sizes)], order[max(sizes) :]
    runs = neighbours(rest, max(sizes), PLACES)
    weights = [sum(map(len, rest)) / len(runs) / sum(map(len, run)) for run in runs]
    for number, run in enumerate([*runs, tail]):
        theirs.ask(do="take", name=f"run {number}", comparisons=[[ids] for ids in run])
    theirs.ask(do="score", name="run 0")  # the first time is slower

    def once(number: int, **setting: str | int) -> float:
        answer = theirs.ask(do="score", name=f"run {number}", **setting)
        return float(answer["seconds"]) if answer.get("fits", True) else math.inf

    def seconds(**setting: str | int) -> float:
        return sum(weight * once(number, **setting) for number, weight in enumerate(weights))

    fits = partial(scores_fit, [len(order[0])], heads, itemsize={"bfloat16": 2, "float32": 4}[dtype])
    found = search(seconds, fits, sizes)
    whole = {
        (kind, size): least + once(len(runs), attention=kind, batch=size)
        for (kind, size), least in found.items()
        if least <= NEAR * min(found.values())
    }
    attention, batch = min(whole, key=lambda setting: whole[setting])
    tried = {f"search_{kind}_{size}": seconds for (kind, size), seconds in whole.items()}
    return {"attention": attention, "batch": batch, **tried}


def neighbours(order: Sequence[Ids], count: int, places: int) -> list[Sequence[Ids]]:
    """Of conversations in order of length the run of `count` in the middle of each of as many parts of equal tokens; all in
    one if they are no more than that, and none of none."""
    if len(order) <= count * places:
        return [order] if order else []
    share = np.cumsum([len(ids) for ids in order]) / sum(map(len, order))
    middles = np.searchsorted(share, (np.arange(places) + 0.5) / places).tolist()
    starts = [min(max(0, middle - count // 2), len(order) - count) for middle in middles]
    return [order[start : start + count] for start in starts]


def machine() -> str:
    """What decides how fast the sides are, beside this code: the processor and the versions of what they are made of."""
    names = ("vendor_id", "cpu family", "model", "model name")
    said: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
        said = {key.strip(): value.strip() for key, _, value in lines if key.strip() in names}
    versions = [f"{name} {metadata.version(name)}" for name in ("jax", "torch", "transformers")]
    processor = [said[name] for name in names if name in said] or [platform.machine()]
    return ", ".join([" ".join(processor), f"{cores()} cores", *versions])


def score(name: str, window: list[list[Ids]], ours: Side, theirs: Side, setting: Figures) -> Figures:
    """Both sides' seconds for a window, in turn. Raises SystemExit if their rewards differ."""
    counted = ours.ask(do="take", name=name, comparisons=window)
    theirs.ask(do="take", name=name, comparisons=window)
    ours.ask(do="compile", name=name)
    first = ours.ask(do="score", name=name)
    other = theirs.ask(do="score", name=name, **setting)
    if first["compiled"]:
        raise SystemExit(f"{name}: our side compiled while it was timed")
    difference = gap(first["rewards"], other["rewards"])
    if not difference <= MOST_GAP:
        raise SystemExit(f"{name}: the sides do not get the same rewards: {difference:.3f} standard deviations apart")
    return Figures(
        ours=first["seconds"],
        theirs=other["seconds"],
        tokens=counted["tree_tokens"],
        unshared=counted["unshared_tokens"],
        gap=difference,
    )


def ratio(seconds: list[tuple[float, float]]) -> float:
    """All of the second over all of the first."""
    return sum(t for _, t in seconds) / sum(o for o, _ in seconds)


if __name__ == "__main__":
    main()
