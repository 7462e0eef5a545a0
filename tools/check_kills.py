"""SIGKILL of one process of a run at a random step, again and again; then a comparison with a run that was left alone.

    python tools/check_kills.py [--times 10] [--processes 2] [--seed 0] [--json FILE]

Every process has two CPU devices, and they meet over loopback as hosts of a pod would. After each kill the others must
end by themselves; then all are started again and go on from the newest checkpoint. At the end parameters and losses
must be bit-identical to those of the undisturbed run. Exit code 1 if they are not.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np
import yaml
from local_processes import Processes, train, wait_for_step
from rich.console import Console

STEPS, BATCH, CHECKPOINT_EVERY = 60, 8, 3
MODEL = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="how often to kill")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the steps and processes that are chosen")
    parser.add_argument("--json", type=Path, help="where the result goes")
    given = parser.parse_args(arguments)
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = make_run(folder)
        console.print(f"an undisturbed run of {STEPS} steps in {given.processes} processes")
        undisturbed(config, folder / "undisturbed", given.processes)
        kills = disturb(config, folder / "killed", given, console)
        same = compare(folder / "undisturbed", folder / "killed")
    result = {"kills": kills, "bit_identical": not same, "differences": same}
    if given.json:
        given.json.write_text(json.dumps(result, indent=1))
    console.print(
        f"{len(kills)} kills; " + ("parameters and losses are bit-identical" if not same else "; ".join(same))
    )
    if same:
        raise SystemExit(1)


def make_run(folder: Path) -> Path:
    """Data, a tokenizer and a config in `folder`; the config's path."""
    data, tokenizer = folder / "comparisons.jsonl", folder / "tokenizer"
    run_quietly("skyrm_jax.data.synthetic", "--out", data, "--count", 600, "--seed", 0)
    run_quietly("skyrm_jax.data.bpe", data, "--out", tokenizer)
    config: dict[str, Any] = {
        "data": {
            "sources": [str(data)],
            "store": str(folder / "store"),
            "tokenizer": str(tokenizer),
            "max_tokens": 128,
            "row_tokens": 256,
            "held_out": 20,
        },
        "model": {"architecture": MODEL, "compute_dtype": "float32"},
        "optimizer": {"batch": BATCH, "learning_rate": 1e-3},
        "run": {"steps": STEPS, "checkpoint_every": CHECKPOINT_EVERY},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run_quietly(module: str, *arguments: Any) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def disturb(config: Path, out: Path, given: argparse.Namespace, console: Console) -> list[dict[str, int]]:
    """Runs to the end, with `given.times` kills on the way; what each hit."""
    draw, kills = random.Random(given.seed), []
    for target in sorted(draw.sample(range(1, STEPS - 2), given.times)):
        victim = draw.randrange(given.processes)
        with Processes(train(config, "--run.out", str(out)), given.processes) as processes:
            step = wait_for_step(out, target, processes)
            processes.running[victim].send_signal(signal.SIGKILL)
            began = time.monotonic()
            ends = processes.ends()
        codes = [code for code, _ in ends]
        if codes[victim] != -signal.SIGKILL or 0 in codes:
            raise SystemExit(f"process {victim} was to be killed and the others to fail, but the codes are {codes}")
        kills.append({"process": victim, "step": step, "others_ended_after": round(time.monotonic() - began)})
        console.print(
            f"killed process {victim} at step {step}; the others ended after {kills[-1]['others_ended_after']} s"
        )
    undisturbed(config, out, given.processes)
    return kills


def undisturbed(config: Path, out: Path, count: int) -> None:
    """A run, or its rest, that nothing hinders."""
    with Processes(train(config, "--run.out", str(out)), count) as processes:
        for code, said in processes.ends():
            if code:
                raise SystemExit(f"a process failed ({code}):\n{said}")


def compare(one: Path, other: Path) -> list[str]:
    """What differs between two runs, in words."""
    from skyrm_jax import checkpoint
    from skyrm_jax.models.parameters import flattened

    found = []
    for out in (one, other):
        located = checkpoint.locate(out)
        assert located is not None and located.step == STEPS
        found.append({name: np.asarray(value) for name, value in flattened(checkpoint.restore_params(located)).items()})
    different = [f"{name} differs" for name in found[0] if not np.array_equal(found[0][name], found[1][name])]
    losses = [[json.loads(line)["loss"] for line in (out / "metrics.jsonl").open()] for out in (one, other)]
    return different + (["the losses differ"] if losses[0] != losses[1] else [])


if __name__ == "__main__":
    main()
