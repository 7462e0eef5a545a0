"""`python -m skyrm_jax.plan --config C --topology v5e:16x16`."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from skyrm_jax.config import TrainConfig, parse_train_config
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Arguments it does not know are overrides of the config, as `train` takes them."""
    parser = argparse.ArgumentParser(
        prog="skyrm plan",
        description="What a training job takes and whether it fits, by compiling it for hardware that need not be here.",
        epilog="Further arguments override the config, as for `skyrm train`: --data.row_tokens 8192",
    )
    parser.add_argument("--config", required=True, help="YAML file of the run")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--topology", help="of TPUs: v5e:16x16, v5p:4x4x4, v6e:8x8, tpu7x:2x2x1")
    where.add_argument("--gpu", help="of GPUs: h100:8")
    parser.add_argument("--slices", type=int, default=1, help="TPU slices of that topology (default 1)")
    parser.add_argument("--store", help="a prepared store: real tree statistics")
    parser.add_argument("--comparison-tokens", type=int, default=1024, help="without a store: tokens of a comparison")
    parser.add_argument("--no-search", action="store_true", help="do not look for the largest micro-batch")
    parser.add_argument("--json", type=Path, help="also write the plan here")
    given, overrides = parser.parse_known_args(argv)
    config = parse_train_config(["--config", given.config, *overrides])

    # The compiler needs no device of its own, and must not take one that a run uses.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from skyrm_jax.data.store import Store
    from skyrm_jax.plan.flops import TreeStatistics
    from skyrm_jax.plan.page import page
    from skyrm_jax.plan.plan import assumed_facts, longest_shape, make_plan
    from skyrm_jax.plan.topology import topology

    if given.slices < 1 or given.comparison_tokens < 8:
        raise UserError("--slices must be at least 1 and --comparison-tokens at least 8")
    devices = topology(given.topology or given.gpu, given.slices)
    if config.mesh.data > 0 and config.mesh.data % given.slices:  # -1 is whatever is left
        config = replace(config, mesh=replace(config.mesh, data=config.mesh.data * given.slices))
        overrides += ["--mesh.data", str(config.mesh.data)]
    config = replace(config, model=replace(config.model, attention=_kernel(config, gpu=bool(given.gpu))))
    if given.store:
        store = Store.open(given.store)
        trees, facts = TreeStatistics.of_store(store.index, given.store), store.meta
    else:
        trees, facts = TreeStatistics.assumed(given.comparison_tokens), assumed_facts(given.comparison_tokens)
    shape_for = partial(longest_shape, config, facts)
    plan = make_plan(config, stated_architecture(config), devices, trees, shape_for, not given.no_search)
    plan = replace(plan, command=" ".join(["skyrm train --config", given.config, *overrides]))
    print(page(plan, Path(given.config).stem))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(plan.as_dict(), indent=1) + "\n")


def _kernel(config: TrainConfig, gpu: bool) -> str:
    """`auto` goes by the platform that is here; the plan is for another."""
    return {"auto": "gpu" if gpu else "tpu"}.get(config.model.attention, config.model.attention)


def stated_architecture(config: TrainConfig) -> Architecture:
    """The architecture of a config; its base is not opened if the config says what it must be."""
    from skyrm_jax.train.setup import base_architecture, hf_config

    given = config.model.architecture
    if given is None:
        return base_architecture(str(config.model.base))[0]
    contents = hf_config(given)
    if contents.get("vocab_size") is None:
        raise UserError("the config's model.architecture must say vocab_size: a plan opens no tokenizer")
    return Architecture.from_hf(contents, "model.architecture")
