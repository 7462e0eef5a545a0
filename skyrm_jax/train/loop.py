"""A training run, from config to checkpoint: read it top to bottom."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from rich.console import Console

from skyrm_jax import checkpoint
from skyrm_jax.config import TrainConfig
from skyrm_jax.data.pipeline import Packer, StepBatch, row_shapes, train_batches
from skyrm_jax.errors import UserError
from skyrm_jax.mesh import make_mesh, my_rows, replicated, row_shards, to_device
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.parameters import abstract, parameter_table
from skyrm_jax.report.plots import training_plot
from skyrm_jax.schedule import Schedule
from skyrm_jax.train import setup
from skyrm_jax.train.metrics import METRICS_FILE, MetricsLog, ProgressDisplay
from skyrm_jax.train.optimizer import learning_rate, make_optimizer
from skyrm_jax.train.step import Accumulated, StepPrograms, TrainState, moment_shardings, step_programs

# What may differ between a run and its resumption: nothing that decides which comparisons a step holds or what an
# update does with them.
FREE_TO_CHANGE = {
    "data.root",
    "data.sources",
    "data.store",
    "data.rows",
    "data.row_tokens",
    "data.prefetch",
    "data.workers",
    "model.remat",
    "model.attention",
    "run.out",
    "run.log_every",
    "run.evaluate_every",
    "run.checkpoint_every",
    "run.keep",
}


@dataclass(frozen=True)
class Result:
    """What a run ends with. `held_out` is empty when nothing was held out."""

    directory: Path
    steps: int
    held_out: dict[str, float]


def run(config: TrainConfig, console: Console | None = None) -> Result:
    """Trains as `config` says, resuming from the newest checkpoint in `run.out` if there is one.

    Raises:
        UserError: the config, the data or the base checkpoint cannot be used, or the folder holds another run.
    """
    console = console or Console(stderr=True)
    out = Path(config.run.out)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.model)
    shards = row_shards(mesh)

    begin = setup.start(config)
    architecture = begin.architecture
    store = setup.open_store(config, begin, console)
    facts = {
        "config": config.as_dict(),
        "store": store.fingerprint,
        "max_tokens": config.data.max_tokens,
        "template_hash": begin.chat.template_hash,
        "tokenizer_hash": begin.chat.tokenizer_hash,
    }
    resumed = checkpoint.locate(out, unfinished_ok=True)
    if resumed is None:
        setup.keep_tokenizer(begin, config.data.template, out)
    else:
        require_same_run(resumed.meta, facts, out, resumed.step)
    start = 0 if resumed is None else resumed.step

    with jax.set_mesh(mesh):
        index = store.index
        schedule = Schedule(
            setup.pools(store, config.data.mixture), config.optimizer.batch, config.run.epochs, config.run.seed
        )
        steps = min(schedule.steps, config.run.steps or schedule.steps)
        optimizer = make_optimizer(config.optimizer, architecture, steps)
        programs = step_programs(architecture, config.model, optimizer, mesh)
        lengths, rows = config.data.micro_batches(shards, store.meta["totals"])
        shapes = row_shapes(store.meta["sources"], lengths, rows)
        mine = {shape: my_rows(mesh, shape.rows) for shape in shapes}
        packer = Packer(store, shapes, mine, shards, architecture.pad_token_id or 0, architecture.token_cost())
        held_out = index.held_out.astype(np.int64)
        rate = learning_rate(config.optimizer, steps)
        dtypes = dict.fromkeys(parameter_table(architecture), "float32")

        with checkpoint.manager(out, config.run.keep) as saver:
            if resumed is None:
                params = setup.starting_params(config, begin, mesh)
                moments = jax.jit(optimizer.init, out_shardings=moment_shardings(optimizer, architecture, mesh))(params)
                state = TrainState(params, moments)
            else:
                state = restore_state(saver, start, architecture, optimizer, mesh)
                console.print(f"resumed from step {start} of {steps} in {out}", highlight=False)
            log = MetricsLog(out, start)
            batches = train_batches(packer, schedule, start, steps, config.data.prefetch, config.data.workers)
            last: dict[str, float] = {}
            with ProgressDisplay(steps, start, console) as progress:
                for step in range(start, steps):
                    began = time.monotonic()
                    batch = next(batches)
                    waited = time.monotonic() - began
                    state, figures = train_step(programs, state, batch, mesh)
                    finished = step + 1
                    record = step_record(figures, batch, float(rate(step)), time.monotonic() - began, waited)
                    if due(finished, config.run.evaluate_every, steps) and len(held_out):
                        last = evaluate(programs, state, packer, held_out, mesh)
                        record |= last
                    if due(finished, config.run.log_every, steps):
                        log.write(finished, record)
                    progress.show(finished, record)
                    if due(finished, config.run.checkpoint_every, steps):
                        save(
                            saver,
                            finished,
                            state,
                            checkpoint.metadata(architecture, dtypes, {"step": finished, **facts}),
                        )
            saver.wait_until_finished()
            log.close()
        if start == steps and len(held_out):  # the run had ended before
            last = evaluate(programs, state, packer, held_out, mesh)
    training_plot(out / METRICS_FILE, out / "training.png")
    report(console, out, steps, last)
    return Result(out, steps, last)


def train_step(
    programs: StepPrograms, state: TrainState, batch: StepBatch, mesh: Mesh
) -> tuple[TrainState, dict[str, Any]]:
    """One optimiser step over all micro-batches of a batch."""
    divisor = jax.device_put(np.float32(batch.divisor), replicated(mesh))
    sums: Accumulated | None = None
    for arrays in batch.micro_batches:
        micro = to_device(mesh, arrays)
        if sums is None:
            sums = programs.first(state.params, micro, divisor)
        else:
            sums = programs.add(sums, state.params, micro, divisor)
    assert sums is not None
    state, metrics = programs.update(state, sums)
    return state, jax.device_get(metrics)


def due(step: int, every: int, steps: int) -> bool:
    """Every `every` steps, and at the last one."""
    return step == steps or (every > 0 and step % every == 0)


def averages(sums: dict[str, Any]) -> dict[str, Any]:
    """Counters as they are, and means over the counted pairs."""
    pairs = max(1, int(sums["pairs"]))
    mean = float(sums["reward_sum"]) / pairs
    return {
        "pairs": int(sums["pairs"]),
        "correct": int(sums["correct"]),
        "ties": int(sums["ties"]),
        "accuracy": int(sums["correct"]) / pairs,
        "margin": float(sums["margin_sum"]) / pairs,
        "reward_mean": mean,
        "reward_std": max(0.0, float(sums["reward_square_sum"]) / pairs - mean**2) ** 0.5,
    }


def step_record(
    figures: dict[str, Any], batch: StepBatch, rate: float, seconds: float, waited: float
) -> dict[str, Any]:
    """What is logged of a step; token rates count real tokens, `unshared` ones as if no prompt were shared."""
    return {
        "loss": float(figures["loss"]),
        **averages(figures),
        "gradient_norm": float(figures["gradient_norm"]),
        "learning_rate": rate,
        "comparisons": batch.comparisons,
        "micro_batches": len(batch.micro_batches),
        "row_fill": batch.fill,
        "pairs_per_second": int(figures["pairs"]) / seconds,
        "tokens_per_second": batch.tokens / seconds,
        "unshared_tokens_per_second": batch.unshared_tokens / seconds,
        "data_wait_seconds": waited,
        "seconds": seconds,
    }


def evaluate(
    programs: StepPrograms, state: TrainState, packer: Packer, ids: np.ndarray, mesh: Mesh
) -> dict[str, float]:
    """Held-out loss and accuracy over the comparisons `ids`."""
    pieces, plans = packer.plan(ids)
    loss, sums = (
        0.0,
        dict.fromkeys(("pairs", "correct", "ties", "margin_sum", "reward_sum", "reward_square_sum"), 0),
    )
    for plan in plans:
        value, metrics = jax.device_get(
            programs.evaluate(state.params, to_device(mesh, packer.load(ids, pieces, plan)))
        )
        loss += float(value)
        sums = {name: sums[name] + metrics[name] for name in sums}
    figures = {"loss": loss / (float(packer.store.index[ids]["weight"].sum(dtype=np.float64)) or 1.0), **averages(sums)}
    return {f"held_out_{name}": figures[name] for name in ("loss", "accuracy", "margin", "pairs", "correct", "ties")}


def save(saver: ocp.CheckpointManager, step: int, state: TrainState, meta: dict[str, Any]) -> None:
    """Starts an asynchronous checkpoint of the state after `step` steps."""
    saver.save(
        step,
        args=ocp.args.Composite(
            model=ocp.args.StandardSave(
                state.params, checkpoint.save_args(Architecture.from_dict(meta["architecture"]))
            ),
            optimizer=ocp.args.StandardSave(state.moments),
            meta=ocp.args.JsonSave(meta),
        ),
    )


def restore_state(
    saver: ocp.CheckpointManager, step: int, architecture: Architecture, optimizer: Any, mesh: Mesh
) -> TrainState:
    """The state after `step` steps, in this run's shardings, whatever mesh wrote it."""
    params = abstract(architecture, mesh)
    moments = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(optimizer.init, params),
        moment_shardings(optimizer, architecture, mesh),
    )
    restored = saver.restore(
        step,
        args=ocp.args.Composite(model=ocp.args.StandardRestore(params), optimizer=ocp.args.StandardRestore(moments)),
    )
    return TrainState(restored["model"], restored["optimizer"])


def require_same_run(before: dict[str, Any], now: dict[str, Any], out: Path, step: int) -> None:
    """Refuses to resume a run on other data, or under a config that would have made it another run.

    A run that has reached its `run.steps` may go on to a later step: with the comparisons that follow, at the
    learning rates that the schedule has from there to the new end.
    """
    if before["store"] != now["store"]:
        raise UserError(
            f"{out} was trained on another store than the one given; point data.store at the old one, "
            "or choose another run.out"
        )
    for section, values in before["config"].items():
        for name, value in values.items():
            key = f"{section}.{name}"
            if key == "run.steps" and value == step and (now["config"]["run"]["steps"] or math.inf) > step:
                continue
            given = now["config"][section].get(name)
            if section != "mesh" and key not in FREE_TO_CHANGE and given != value:
                raise UserError(
                    f"{out} holds a run with {'; '.join(_differences(key, value, given))}; "
                    f"restore the value to resume, or choose another run.out"
                )


def _differences(key: str, before: Any, now: Any) -> list[str]:
    """Two values of a key that differ, in words; of mappings only their keys that differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [f"{key} = {before!r}, now it is {now!r}"]
    names = [n for n in {**before, **now} if n not in before or n not in now or before[n] != now[n]]
    old, new = ([repr(given[n]) if n in given else "left out" for n in names] for given in (before, now))
    return [f"{key}.{n} = {was}, now it is {this}" for n, was, this in zip(names, old, new, strict=True)]


def report(console: Console, out: Path, steps: int, held_out: dict[str, float]) -> None:
    """The last words of a run."""
    console.print(f"\nfinished {steps} steps; checkpoint in {out}, plot in {out / 'training.png'}", highlight=False)
    if held_out:
        console.print(
            f"held-out accuracy {held_out['held_out_accuracy']:.4f} "
            f"({held_out['held_out_correct']} of {held_out['held_out_pairs']} pairs, {held_out['held_out_ties']} ties), "
            f"loss {held_out['held_out_loss']:.4f}",
            highlight=False,
        )
