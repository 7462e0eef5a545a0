"""Llama-3.1-8B's train step, compiled for TPU slices that are not there: memory, gathers, reductions, compile time.

    python tools/bench_plan.py [--only v5e v5p v6e] [--no-search] [--double] [--json FILE]

Needs `pip install 'jax[tpu]'` and no TPU. Micro-batches are one row of 4,096 tokens a chip; remat is full, parameters
and moments are fp32. For each slice:

    peak_gib               most that a chip needs in a step of one micro-batch, idle moments included
    accumulating_peak_gib  the same in a step of several
    max_tokens             tokens of a micro-batch per chip that still fit, found by compiling
    async_gathers          whether the weights' gathers run beside the computation, all but those of k and v
    sync_gather_share      of the gathered bytes, which part waits
    reduce_scatter         whether every matrix's gradient is reduced by reduce-scatters
    compile_seconds        of the slowest program of the step
    doubled_peak_gib       (--double) the accumulating peak on twice as many chips, each with as many tokens
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

from dataclasses import replace

from skyrm_jax.chips import GIB
from skyrm_jax.config import parse_train_config
from skyrm_jax.packing import RowShape
from skyrm_jax.plan.cli import stated_architecture
from skyrm_jax.plan.collectives import Collective, collectives
from skyrm_jax.plan.flops import TreeStatistics
from skyrm_jax.plan.plan import Plan, make_plan
from skyrm_jax.plan.topology import topology

SLICES = {"v5e": "v5e:16x16", "v5p": "v5p:4x4x4", "v6e": "v6e:8x8"}
DOUBLED = {"v5e": ("v5e:16x16", 2), "v5p": ("v5p:4x4x8", 1), "v6e": ("v6e:8x16", 1)}
TOKENS = 4096
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "llama3.1_8b.yaml"


def one_row(shards: int) -> RowShape:
    """A micro-batch of one row of TOKENS a chip."""
    return RowShape(rows=shards, tokens=TOKENS, leaves=16, pairs=8)


def plan_of(name: str, search: bool, slices: int = 1) -> Plan:
    """The plan of the 8B model on a slice, one row of TOKENS a chip."""
    config = parse_train_config(["--config", str(CONFIG)])
    config = replace(
        config, model=replace(config.model, attention="tpu"), mesh=replace(config.mesh, data=slices, fsdp=-1)
    )
    devices = topology(name, slices)
    return make_plan(config, stated_architecture(config), devices, TreeStatistics.assumed(), one_row, search)


def weights(found: list[Collective], kind: str) -> list[Collective]:
    """The collectives of this kind that every layer makes and that are of a matrix's size."""
    return [one for one in found if one.kind == kind and one.times > 1 and one.bytes >= 2**20]


def figures(plan: Plan) -> dict[str, Any]:
    """What a plan says, by the names above."""
    found = collectives(plan.programs["add"].hlo)
    gathers, summed = weights(found, "all-gather"), weights(found, "all-reduce")
    total = sum(one.bytes for one in gathers)
    waiting = [one for one in gathers if not one.asynchronous]
    step = [plan.programs[name].needs for name in ("first", "update")]
    return {
        "peak_gib": max(step) / GIB,
        "accumulating_peak_gib": max(*step, plan.programs["add"].needs) / GIB,
        "max_tokens": None if plan.max_rows is None else plan.max_rows * TOKENS,
        "async_gathers": bool(gathers) and max((one.bytes for one in waiting), default=0) <= 2 * 4096 * 1024,
        "sync_gather_share": sum(one.bytes for one in waiting) / total,
        "reduce_scatter": bool(weights(found, "reduce-scatter")) and not summed,
        "compile_seconds": max(plan.programs[name].seconds for name in ("first", "add", "update")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SLICES, default=list(SLICES))
    parser.add_argument("--no-search", action="store_true", help="leave max_tokens out")
    parser.add_argument("--double", action="store_true", help="also on twice as many chips")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result: dict[str, Any] = {}
    for name in given.only:
        result[name] = figures(plan_of(SLICES[name], not given.no_search))
        if given.double:
            result[name]["doubled_peak_gib"] = figures(plan_of(*_on(DOUBLED[name])))["accumulating_peak_gib"]
        print(f"{SLICES[name]}, {TOKENS:,} tokens a chip")
        for key, value in result[name].items():
            print(f"  {key:<22}{value:.3f}" if isinstance(value, float) else f"  {key:<22}{value}", flush=True)
        if given.json:
            given.json.write_text(json.dumps(result, indent=1) + "\n")


def _on(doubled: tuple[str, int]) -> tuple[str, bool, int]:
    return doubled[0], False, doubled[1]


if __name__ == "__main__":
    main()
