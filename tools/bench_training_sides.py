"""The two sides that bench_training.py measures, each a process that does steps when it is told to, and sleeps between.

    python tools/bench_training_sides.py ours|trl FACTS     (JSON; see `ours` and `trl`)

A line of JSON on standard input, {"steps": 4}, asks for steps; a line on standard output says what they took. The end of
standard input ends the process.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

Facts = dict[str, Any]


class Turns:
    """The side's end of the two pipes. Whatever else is printed goes to standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._steps = 0
        self._cpu = time.process_time()
        self._done: Facts = {}

    def wait(self) -> None:
        """Blocks until more steps are asked for."""
        line = sys.stdin.readline()
        if not line:
            leave()
        self._steps = json.loads(line)["steps"]
        slept = time.process_time()
        self._done = {"losses": [], "pairs": 0, "tokens": 0, "slots": 0, "idle_cpu_seconds": slept - self._cpu}
        self._cpu, self._began = slept, time.perf_counter()

    def after_step(self, losses: list[float], pairs: int, tokens: int, slots: int) -> None:
        """Counts a step; blocks after the last one of a turn. `tokens` are those of all conversations, pads not counted;
        `slots` is what was computed."""
        self._done["losses"].append(sum(losses) / len(losses))
        for name, count in (("pairs", pairs), ("tokens", tokens), ("slots", slots)):
            self._done[name] += count
        if len(self._done["losses"]) == self._steps:
            seconds, cpu = time.perf_counter() - self._began, time.process_time()
            self.say(self._done | {"seconds": seconds, "cpu_seconds": cpu - self._cpu})
            self._cpu = cpu
            self.wait()

    def say(self, record: Facts) -> None:
        self._out.write(json.dumps(record) + "\n")
        self._out.flush()


def leave() -> NoReturn:
    """Ends the process at once: there is nothing to save, and loaders' threads need not be waited for."""
    os._exit(0)


def ours(facts: Facts, turns: Turns) -> None:
    """Steps of skyrm_jax.train.

    Args:
        facts: `architecture` (of ours), `store`, `batch` (pairs), `model` and `optimizer` (keywords of their configs),
            `row_tokens`, `rows`, and `export`: a folder where the initial weights are written for transformers.
    """
    import jax

    from skyrm_jax.config import ModelConfig, OptimizerConfig
    from skyrm_jax.convert.hf_export import write_hf
    from skyrm_jax.convert.weights import MemoryWeights
    from skyrm_jax.data.pipeline import Packer, row_shapes, train_batches
    from skyrm_jax.data.store import Store
    from skyrm_jax.mesh import make_mesh, my_rows, row_shards
    from skyrm_jax.models.architecture import Architecture
    from skyrm_jax.models.parameters import initialise, shardings
    from skyrm_jax.schedule import Schedule
    from skyrm_jax.train.loop import train_step
    from skyrm_jax.train.optimizer import make_optimizer
    from skyrm_jax.train.step import TrainState, moment_shardings, step_programs

    architecture, store = Architecture.from_dict(facts["architecture"]), Store.open(facts["store"])
    mesh = make_mesh(devices=jax.devices()[:1])

    def start(key: Any) -> Any:
        params = initialise(architecture, key)
        # A head that is not zero, so that the first step already reaches every layer.
        head = architecture.initializer_range * jax.random.normal(jax.random.fold_in(key, 1), params["score"].shape)
        return params | {"score": head}

    with jax.set_mesh(mesh):
        schedule = Schedule.of(store.index.training(), facts["batch"], epochs=facts["epochs"], seed=0)
        optimizer = make_optimizer(OptimizerConfig(**facts["optimizer"]), architecture, schedule.steps)
        config = ModelConfig(architecture={}, **facts["model"])
        programs = step_programs(architecture, config, optimizer, mesh)
        shapes = row_shapes(store.meta["sources"], facts["row_tokens"], facts["rows"])
        mine = {shape: my_rows(mesh, shape.rows) for shape in shapes}
        packer = Packer(
            store, shapes, mine, row_shards(mesh), architecture.pad_token_id or 0, architecture.token_cost()
        )
        params = jax.jit(start, out_shardings=shardings(architecture, mesh))(jax.random.key(0))
        write_hf(facts["export"], MemoryWeights.of(architecture, jax.device_get(params)), Path(facts["tokenizer"]))
        moments = jax.jit(optimizer.init, out_shardings=moment_shardings(optimizer, architecture, mesh))(params)
        state = TrainState(params, moments)
        del params, moments
        turns.say({"ready": True})
        turns.wait()
        for batch in train_batches(packer, schedule, 0, schedule.steps):
            state, figures = train_step(programs, state, batch, mesh)
            jax.block_until_ready(state)
            slots = sum(micro["tokens"].size for micro in batch.micro_batches)
            turns.after_step([float(figures["loss"])], batch.comparisons, batch.unshared_tokens, slots)


def trl(facts: Facts, turns: Turns) -> None:
    """Steps of TRL's RewardTrainer.

    Args:
        facts: `export` (the folder of initial weights), `source` (a jsonl file), `model` (keywords of from_pretrained),
            `settings` (keywords of RewardConfig), `device` (cpu or gpu) and `folder`, for what it writes.
    """
    os.environ["HF_HOME"] = f"{facts['folder']}/hf"
    from datasets import load_dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    tokenizer = AutoTokenizer.from_pretrained(facts["export"])
    data = load_dataset("json", data_files=facts["source"], split="train")
    settings = facts["settings"]
    if settings.get("train_sampling_strategy") == "group_by_length":

        def longest(pair: dict[str, Any]) -> dict[str, int]:
            sides = (tokenizer.apply_chat_template(pair[side], return_dict=False) for side in ("chosen", "rejected"))
            return {"length": max(map(len, sides))}

        # The sampler cannot find lengths in preference data itself, and Trainer would drop the column before it looks.
        data, settings = data.map(longest), settings | {"remove_unused_columns": False}
    step: dict[str, Any] = {}

    class Recorded(RewardTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **keywords: Any) -> Any:
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            result = super().compute_loss(model, inputs, *args, **keywords)
            step["losses"].append(result.item())
            for name, count in (("pairs", len(ids) // 2), ("tokens", int(mask.sum())), ("slots", ids.numel())):
                step[name] += count
            return result

    def nothing() -> None:
        step.update(losses=[], pairs=0, tokens=0, slots=0)

    class Paced(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            nothing()
            turns.say({"ready": True})
            turns.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.after_step(**step)
            nothing()

    trainer = Recorded(
        model=AutoModelForSequenceClassification.from_pretrained(facts["export"], **facts["model"]),
        args=RewardConfig(
            output_dir=facts["folder"],
            num_train_epochs=facts["epochs"],
            use_cpu=facts["device"] == "cpu",
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=10_000,
            **settings,
        ),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[Paced()],
    )
    trainer.train()


if __name__ == "__main__":
    side, given = sys.argv[1], json.loads(sys.argv[2])
    {"ours": ours, "trl": trl}[side](given, Turns())
