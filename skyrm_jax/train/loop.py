"""A training run, from config to checkpoint: read it top to bottom."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from skyrm_jax import checkpoint, distributed
from skyrm_jax.config import TrainConfig
from skyrm_jax.data.pipeline import Packer, StepBatch, row_shapes, train_batches
from skyrm_jax.errors import Interrupted
from skyrm_jax.mesh import make_mesh, my_rows, replicated, row_shards, to_device
from skyrm_jax.models.parameters import parameter_table
from skyrm_jax.schedule import Schedule
from skyrm_jax.train import setup
from skyrm_jax.train.account import Account, utilisation
from skyrm_jax.train.evaluation import averages, evaluate
from skyrm_jax.train.logs import Logs
from skyrm_jax.train.non_finite import keep_evidence, said, stopped
from skyrm_jax.train.optimizer import learning_rate, make_optimizer
from skyrm_jax.train.profile import Profile
from skyrm_jax.train.resume import require_same_run
from skyrm_jax.train.saving import Saver, newest_whole, remove_leftovers, restore_state
from skyrm_jax.train.step import Accumulated, StepPrograms, TrainState, moment_shardings, step_programs
from skyrm_jax.train.stopping import StopSignal, Watch


@dataclass(frozen=True)
class Result:
    """What a run ends with. `held_out` is empty when nothing was held out."""

    directory: Path
    steps: int
    held_out: dict[str, float]


def run(config: TrainConfig, console: Console | None = None) -> Result:
    """Trains as `config` says, resuming from the newest whole checkpoint in `run.out` if there is one.

    Raises:
        UserError: the config, the data or the base checkpoint cannot be used, the folder holds another run, a loss or
            gradient is not finite, or the last checkpoint cannot be written.
        Interrupted: the run was told to stop (SIGTERM) and has saved; the same call resumes it.
    """
    console = distributed.console(console)
    out = config.run.out
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
    start, account = 0, Account()
    newest = find_checkpoint(out)
    if newest is None:
        if distributed.is_writer():
            setup.keep_tokenizer(begin, config.data.template, out)
    else:
        found = checkpoint.Located.read(out, newest)
        require_same_run(found.meta, facts, out, newest)
        start, account = newest, Account(**found.meta["account"])

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

        if newest is None:
            params = setup.starting_params(config, begin, mesh)
            moments = jax.jit(optimizer.init, out_shardings=moment_shardings(optimizer, architecture, mesh))(params)
            state = TrainState(params, moments)
        else:
            state = restore_state(out, start, architecture, optimizer, mesh)
            console.print(f"resumed from step {start} of {steps} in {out}", highlight=False)
        batches = train_batches(packer, schedule, start, steps, config.data.prefetch, config.data.workers)
        last: dict[str, float] = {}
        with (
            Logs(config, start, steps, account.began, console) as logs,
            Profile(config.run.profile, logs.folder / "profile") as profile,
            Saver(out, config.run.keep, console.print, newest) as saver,
            Watch(config.run.stuck_seconds) as watch,
            StopSignal() as stop,
        ):

            def save(step: int) -> None:
                meta = {"step": step, "account": account.as_dict(), **facts}
                saver.save(step, state, architecture, checkpoint.metadata(architecture, dtypes, meta))

            for step in range(start, steps):
                began = time.monotonic()
                watch.at(f"reading the batch of step {step + 1}")
                batch = next(batches)
                waited = time.monotonic() - began
                watch.at(f"computing step {step + 1}, or waiting in it for another process", compiling=step == start)
                profile.before(step + 1)
                state, figures = train_step(programs, state, batch, mesh)
                profile.after(step + 1)
                finished = step + 1
                seconds = time.monotonic() - began
                if figures["finite"]:
                    account.productive += seconds
                else:
                    batch_ids = keep_evidence(logs.folder, finished, figures, store, schedule.ids_of(step))
                    if config.run.non_finite == "stop":
                        save(step)
                        saver.finish(step, partial(save, step))
                        raise stopped(finished, figures, batch_ids)
                    account.skipped += 1
                    console.print(f"step {finished} is skipped: {said(figures)}; see {batch_ids}", highlight=False)
                record = step_record(figures, batch, float(rate(step)), seconds, waited)
                record |= {"mfu": utilisation(architecture, batch.tokens, batch.visible, seconds)}
                if due(finished, config.run.evaluate_every, steps) and len(held_out):
                    watching = partial(watch.at, f"evaluating after step {finished}", compiling=not last)
                    last = evaluate(programs, state, packer, held_out, mesh, watching)
                    record |= last
                watch.at(f"saving step {finished}")
                began = time.monotonic()
                told = stop.reached(finished)
                if saved := due(finished, config.run.checkpoint_every, steps) or told or saver.wants_another():
                    save(finished)
                if told or finished == steps:
                    saver.finish(finished, partial(save, finished))
                record |= {
                    "checkpoint_seconds": time.monotonic() - began,
                    "goodput": account.goodput,
                    "skipped": account.skipped,
                }
                logs.write(finished, record, due(finished, config.run.log_every, steps) or told)
                if saved:
                    logs.publish(told)
                if told and finished < steps:
                    raise Interrupted(
                        f"told to stop: step {finished} of {steps} is saved in {out}; the same command goes on from there"
                    )
            if start == steps and len(held_out):  # the run had ended before
                last = evaluate(programs, state, packer, held_out, mesh)
            logs.publish(last=True)
    report(console, out, steps, last)
    return Result(logs.folder, steps, last)


def find_checkpoint(out: str) -> int | None:
    """Step of the newest whole checkpoint, in all processes the same; process 0 looks, and clears what is not whole."""
    found: int | None = None
    if distributed.is_writer():
        found = newest_whole(out, distributed.say)
        remove_leftovers(out)
    agreed = distributed.from_writer(-1 if found is None else found)
    return None if agreed < 0 else agreed


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


def report(console: Console, out: str, steps: int, held_out: dict[str, float]) -> None:
    """The last words of a run."""
    console.print(f"\nfinished {steps} steps; checkpoint in {out}, plot in {out}/training.png", highlight=False)
    if held_out:
        console.print(
            f"held-out accuracy {held_out['held_out_accuracy']:.4f} "
            f"({held_out['held_out_correct']} of {held_out['held_out_pairs']} pairs, {held_out['held_out_ties']} ties), "
            f"loss {held_out['held_out_loss']:.4f}",
            highlight=False,
        )
