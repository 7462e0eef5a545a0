"""What each remat policy costs: memory for what a layer keeps, products that are done again, and time on this machine.

    python tools/bench_remat.py [--config configs/qwen3_0.6b.yaml] [--layers 4] [--tokens 1024] [--rows 2] [--json FILE]

For each policy of `model.remat`, of the gradient of a batch of full rows, two responses to a prompt each, in bfloat16:

bytes     kept per token and layer, as the compiler plans it: the slope of its temporary memory from half the layers to all.
products  FLOPs of the matrix products of weights, over those of `none`, which does none of them twice.
seconds   over those of `full`, medians of interleaved rounds and their range.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench_data import spread
from bench_index import timed
from rich.console import Console
from rich.table import Table

from skyrm_jax.config import parse_train_config
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.decoder import REMAT_POLICIES
from skyrm_jax.models.parameters import Params, initialise
from skyrm_jax.models.reward import RewardModel
from skyrm_jax.train.setup import hf_config

CONFIG = Path(__file__).parents[1] / "configs" / "qwen3_0.6b.yaml"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(CONFIG), help="whose model.architecture is taken")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    whole = Architecture.from_hf(hf_config(parse_train_config(["--config", args.config]).model.architecture))
    deep, shallow = (replace(whole, layers=layers) for layers in (args.layers, args.layers // 2))
    programs = {policy: Program(deep, policy, args.rows, args.tokens) for policy in REMAT_POLICIES}
    figures: dict[str, Any] = {"layers": args.layers, "rows": args.rows, "tokens": args.tokens}
    for policy, program in programs.items():
        less = Program(shallow, policy, args.rows, args.tokens).temporary_bytes
        per = args.rows * args.tokens * (deep.layers - shallow.layers)
        figures[f"{policy}_bytes"] = (program.temporary_bytes - less) / per
        figures[f"{policy}_products"] = program.products / programs["none"].products
    params = initialise(deep, jax.random.key(0))
    taken: dict[str, list[float]] = {policy: [] for policy in programs}
    for number in range(args.rounds + 1):
        for policy, program in programs.items():
            seconds = timed(lambda run=program: jax.block_until_ready(run(params)))[1]
            if number:  # the first touches the memory
                taken[policy].append(seconds)
    table = Table("remat", "bytes per token and layer", "products", "seconds over full's", "range")
    for policy in programs:
        ratios = [one / full for one, full in zip(taken[policy], taken["full"], strict=True)]
        figures |= {f"{policy}_seconds": statistics.median(ratios), f"{policy}_seconds_range": spread(ratios)}
        numbers = [figures[f"{policy}_{name}"] for name in ("bytes", "products", "seconds")]
        low, high = spread(ratios)
        table.add_row(
            policy, f"{numbers[0]:,.0f}", f"{numbers[1]:.2f}", f"{numbers[2]:.2f}", f"{low:.2f} to {high:.2f}"
        )
    Console().print(table)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


class Program:
    """The compiled gradient, by layers and embeddings, of the sum of the squared rewards of a batch."""

    def __init__(self, architecture: Architecture, policy: str, rows: int, tokens: int) -> None:
        prompt, end = tokens // 2, np.full(tokens, tokens)
        end[prompt : 3 * tokens // 4] = 3 * tokens // 4
        positions = np.concatenate([np.arange(3 * tokens // 4), np.arange(prompt, prompt + tokens - 3 * tokens // 4)])
        batch = [jnp.tile(jnp.asarray(x, jnp.int32), (rows, 1)) for x in (positions, end, np.array([0, tokens - 1]))]
        ids = jnp.zeros((rows, tokens), jnp.int32)

        def loss(layers: Params, embedded: jax.Array, embed: jax.Array) -> jax.Array:
            model = RewardModel(architecture, {**layers, "embed": embed}, "bfloat16", policy)
            return jnp.sum(model.of_embedded(embedded, *batch) ** 2)

        def gradient(params: Params) -> Any:
            layers = {name: value for name, value in params.items() if name != "embed"}
            return jax.grad(loss, (0, 1))(layers, params["embed"][ids], params["embed"])

        traced = jax.jit(gradient).trace(jax.eval_shape(lambda: initialise(architecture, jax.random.key(0))))
        self.products = products(traced.jaxpr.jaxpr)
        self.run: Callable[[Params], Any] = traced.lower().compile()
        self.temporary_bytes = self.run.memory_analysis().temp_size_in_bytes  # type: ignore[attr-defined]

    def __call__(self, params: Params) -> Any:
        return self.run(params)


def products(jaxpr: Any) -> int:
    """FLOPs of the products of two matrices in a jaxpr; a scan's body counts as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            a, b = (operand.aval for operand in equation.invars)
            if len(a.shape) == len(b.shape) == 2:
                total += 2 * a.shape[contracted[0]] * equation.outvars[0].aval.size
        # Both branches of a choice by platform hold the same products: the first is counted.
        inner = equation.params.get("branches", list(equation.params.values()))
        inner = inner[:1] if "branches" in equation.params else inner
        for one in inner:
            body = getattr(one, "jaxpr", one)
            if hasattr(body, "eqns"):
                total += equation.params.get("length", 1) * products(body)
    return total


if __name__ == "__main__":
    main()
