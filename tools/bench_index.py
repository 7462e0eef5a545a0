"""The index of a store of many pairs: how fast it opens, how much memory it takes, how fast and how well it is planned.

A part of bench_data.py, which makes the store with `make_index` and runs this file in a process that holds nothing else: it
prints its figures as one line of JSON.
"""

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from skyrm_jax.chat import Tree, build_tree
from skyrm_jax.data import index
from skyrm_jax.data.pipeline import Packer, row_shapes
from skyrm_jax.data.record import StoredTree
from skyrm_jax.data.store import FORMAT, Store, facts_of
from skyrm_jax.packing import MicroBatchPlan, Pieces
from skyrm_jax.schedule import Schedule

ROW_TOKENS = (16384, 8192, 2048)
MEAN_TOKENS, SIGMA, MOST_TOKENS = 1000, 0.9, 16384
BLOCK = 1 << 20


def lengths(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the conversations of `count` pairs, [count, 2], and of their shared prompts."""
    mu = math.log(MEAN_TOKENS) - SIGMA**2 / 2
    drawn = np.clip(rng.lognormal(mu, SIGMA, (count, 2)), 8, MOST_TOKENS).astype(np.int64)
    return drawn, 1 + (rng.random(count) * (drawn.min(axis=1) - 2)).astype(np.int64)


def rows_of(seed: int, count: int) -> np.ndarray:
    """`count` rows of an index."""
    drawn, prompt = lengths(np.random.default_rng(seed), count)
    rows = np.zeros(count, index.ROW)
    rows["tokens"], rows["unshared"], rows["longest"] = drawn.sum(1) - prompt, drawn.sum(1), drawn.max(1)
    rows["weight"], rows["leaves"], rows["pairs"] = 1, 2, 1
    return rows


def make_index(folder: Path, comparisons: int) -> None:
    """A store without shards: index, held-out numbers (2 %), duplicates (1 %) and store.json, written in blocks."""
    folder.mkdir()
    sizes = [min(BLOCK, comparisons - first) for first in range(0, comparisons, BLOCK)]
    rng = np.random.default_rng(0)
    held_out = np.flatnonzero(rng.random(comparisons, np.float32) < 0.02)
    duplicates = np.flatnonzero(rng.random(comparisons, np.float32) < 0.01)
    index.save(folder, (rows_of(seed, size) for seed, size in enumerate(sizes)), comparisons, held_out, duplicates)
    totals = index.totals(rows_of(seed, size) for seed, size in enumerate(sizes))
    meta = {
        "format": FORMAT,
        "shards": [],
        "index": [facts_of(folder / file) for file in index.FILES],
        "sources": [{"name": "synthetic", "comparisons": comparisons, **totals}],
        "totals": totals,
    }
    (folder / "store.json").write_text(json.dumps(meta))
    for file in index.FILES:
        with (folder / file).open("rb+") as opened:
            os.fsync(opened.fileno())  # what is not yet on disk cannot be dropped from the cache


class Shaped(Store):
    """A store whose trees have the shapes that its index tells, and no content."""

    def read(self, ids: Sequence[int] | np.ndarray) -> list[StoredTree]:
        rows = self.index[np.asarray(ids)]
        return [
            StoredTree(pair_tree(int(row["unshared"] - row["tokens"]), int(row["longest"]), int(row["unshared"])), ())
            for row in rows
        ]


def pair_tree(prompt: int, longest: int, unshared: int) -> Tree:
    sides = [
        np.repeat([0, side], [prompt, length - prompt]) for side, length in ((1, longest), (2, unshared - longest))
    ]
    return build_tree(sides, None)


def plan(
    store: str, shards: int, batch: int, batches: int, token_cost: int, token_flops: int, pair_flops: int
) -> dict[str, Any]:
    """Runs in a fresh process, on one core."""
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
    drop_from_cache(Path(store))
    before = memory_gib()
    opened, seconds = timed(lambda: Shaped.open(store))
    _, seconds_cached = timed(lambda: Shaped.open(store))
    shapes = row_shapes(opened.meta["sources"], ROW_TOKENS, [shards] * len(ROW_TOKENS))
    packer = Packer(opened, shapes, {shape: range(shards) for shape in shapes}, shards, 0, token_cost)
    schedule = Schedule.of(
        opened.index.training(), min(batch, len(opened)), epochs=1 + batches * batch // len(opened), seed=0
    )
    ms, sums, cut, micro_batches = [], np.zeros(6), 0, 0
    # Steps from all over the run: what is read of the index does not depend on it, what is drawn does.
    for step in np.linspace(0, max(0, schedule.steps - 2), batches).astype(int).tolist():
        (pieces, plans), taken = timed(partial(planned, packer, schedule, step))
        ms.append(1000 * taken)
        cut += len({int(pieces.comparison[piece]) for piece in pieces.parts})
        micro_batches += len(plans)
        slots = sum(one.shape.slots for one in plans)
        sums += [slots, slots - pieces.tokens.sum(), *step_flops(pieces, plans, shards, token_flops, pair_flops)]
    slots, empty, most, bound, most_as_run, mean = sums
    mean_as_run = mean + token_flops * empty / shards
    return {
        "open_seconds": seconds,
        "open_seconds_cached": seconds_cached,
        "plan_ms": statistics.median(ms),
        "plan_ms_spread": [min(ms), max(ms)],
        "rss_gib": memory_gib(),
        "rss_gib_before": before,
        "padding": empty / slots,
        "step_imbalance": most / mean,
        "step_imbalance_bound": bound / mean,
        "step_imbalance_as_run": most_as_run / mean_as_run,
        "trees_cut_per_batch": cut / batches,
        "micro_batches": micro_batches / batches,
    }


def planned(packer: Packer, schedule: Schedule, step: int) -> tuple[Pieces, list[MicroBatchPlan]]:
    return packer.plan(schedule.ids_of(step))


def step_flops(
    pieces: Pieces, plans: Sequence[MicroBatchPlan], shards: int, token_flops: int, pair_flops: int
) -> tuple[float, float, float, float]:
    """Sums over a step's micro-batches of a forward pass's FLOPs, of a shard: largest, bound, largest as run, mean.

    Only matrices and attention, of tokens and not of pads; `as run` counts the pads' matrices, which are computed too. The
    bound is the largest a shard must have for the micro-batch's costliest tree alone, or the mean where that is more.
    """
    cost = (pieces.tokens * token_flops + pieces.visible * pair_flops).astype(float)
    attention = (pieces.visible * pair_flops).astype(float)
    most = bound = most_as_run = mean = 0.0
    for one in plans:
        of = [np.array([sum(what[row]) for row in one.rows]).reshape(shards, -1).sum(1) for what in (cost, attention)]
        most += of[0].max()
        most_as_run += of[1].max() + token_flops * one.shape.slots / shards
        mean += of[0].mean()
        bound += max(of[0].mean(), max((cost[row].max() for row in one.rows if row), default=0.0))
    return most, bound, most_as_run, mean


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def memory_gib() -> float:
    """The greatest resident memory of this process so far, mapped files included."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def drop_from_cache(folder: Path) -> None:
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    print(json.dumps(plan(**json.loads(sys.argv[1]))))
