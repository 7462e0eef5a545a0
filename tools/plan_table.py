"""Configs for whole slices, configs/pods: written with the remat that fits, and compiled for the README's table.

    python tools/plan_table.py [--write] [--only NAME...] [--search] [--json FILE] [--resume FILE]

Without --write, `skyrm plan` compiles every config of configs/pods for its slice, and the table is printed. With it, the
configs are made anew from their base configs first: each with the policy of `model.remat` that keeps the most and leaves
5 % of a chip's memory; what a policy keeps is reckoned first, so that hopeless ones are not compiled. Needs
`pip install 'jax[tpu]'` and no TPU; a plan takes minutes. Configs whose programs are the same are planned once, and stand
in one line of the table.

--only    names of base configs, such as llama3.1_8b, or of their pods, such as llama3.1_8b_v5e_16x16
--search  also finds the most tokens of a micro-batch that fit a chip: several more compilations for each
--json    every plan, written after each one, so that an interrupted run loses one at most
--resume  plans made before by these versions of jax and libtpu, of the same programs: they are not made again. It
          cannot know whether the code has changed since.
"""

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from skyrm_jax.chips import GIB, chip
from skyrm_jax.config import TrainConfig, parse_train_config
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.plan.cli import stated_architecture
from skyrm_jax.plan.page import duration
from skyrm_jax.report.files import whole

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PODS = CONFIGS / "pods"
SLICES = {
    "qwen3_0.6b": ("v5e:2x4", "v5p:2x2x1", "v6e:2x4"),
    "llama3.2_1b": ("v5e:4x4", "v5p:2x2x2", "v6e:2x4"),
    "qwen3_1.7b": ("v5e:4x4", "v5p:2x2x2", "v6e:2x4"),
    "llama3.2_3b": ("v5e:8x8", "v5p:2x2x4", "v6e:4x4"),
    "qwen3_4b": ("v5e:8x8", "v5p:2x2x4", "v6e:4x4"),
    "qwen3_8b": ("v5e:16x16", "v5p:4x4x4", "v6e:8x8"),
    "llama3.1_8b": ("v5e:16x16", "v5p:4x4x4", "v6e:8x8"),
    "llama3.1_8b_40m": ("v5e:16x16", "v5p:4x4x4", "v6e:8x8"),
}
POLICIES = ("minimal", "attention", "full")
"""Of `model.remat`, the one that keeps the most first."""
SHARE = 0.95
"""Of the usable memory of a chip, what a config may need: the rest is for what no compiler knows of."""

Plan = dict[str, Any]
"""What `skyrm plan --json` writes."""


@dataclass(frozen=True)
class Pod:
    """A base config on a slice."""

    base: str
    topology: str

    @property
    def name(self) -> str:
        return f"{self.base}_{self.topology.replace(':', '_')}"

    @property
    def file(self) -> Path:
        return PODS / f"{self.name}.yaml"

    @property
    def chips(self) -> int:
        return math.prod(int(side) for side in self.topology.split(":")[1].split("x"))

    def config(self, remat: Any) -> TrainConfig:
        """What the file says, by way of the base config: this and nothing else is its own."""
        config = parse_train_config(["--config", str(CONFIGS / f"{self.base}.yaml")])
        return replace(
            config,
            model=replace(config.model, remat=remat),
            mesh=replace(config.mesh, data=1, fsdp=self.chips, model=1),
            run=replace(config.run, out=f"runs/{self.name}"),
        )

    def text(self, remat: str) -> str:
        """The file: the base config's text with its comments, and the few lines that differ."""
        title, _, body = (CONFIGS / f"{self.base}.yaml").read_text().split("\n", 2)
        generation, shape = self.topology.split(":")
        header = f"""\
{title}
# For a {generation} {shape} slice: configs/{self.base}.yaml with the mesh of its {self.chips} chips, and the remat that keeps
# the most in {SHARE * 100:.0f} % of a chip's memory at rows of 16,384 tokens. Written by tools/plan_table.py --write.
#   skyrm plan --config configs/pods/{self.name}.yaml --topology {self.topology}
#   skyrm train --config configs/pods/{self.name}.yaml --data.sources '[mine.jsonl]'
"""
        mesh = f"mesh:\n  data: 1\n  fsdp: {self.chips}\n  model: 1\n"
        for old, new in [
            ("\noptimizer:\n", f"\n  remat: {remat}\noptimizer:\n"),
            ("\nrun:\n", f"\n{mesh}run:\n"),
            (f"\n  out: runs/{self.base}\n", f"\n  out: runs/{self.name}\n"),
        ]:
            if body.count(old) != 1:
                raise UserError(f"configs/{self.base}.yaml must hold {old.strip()!r} once, for tools/plan_table.py")
            body = body.replace(old, new)
        return header + body


ALL = [Pod(base, topology) for base, topologies in SLICES.items() for topology in topologies]


def programs(config: TrainConfig, topology: str) -> str:
    """A short name of the programs of a config on a topology, and of the compilers: the same name, the same plan."""
    decide = asdict(replace(config.model, base=None)), asdict(config.optimizer), asdict(config.mesh)
    rows = config.data.row_lengths, config.data.rows
    versions = [version(package) for package in ("jax", "jaxlib", "libtpu")]
    return hashlib.sha256(json.dumps([topology, decide, rows, versions], sort_keys=True).encode()).hexdigest()[:16]


class Plans:
    """Plans by their programs, kept in a file."""

    def __init__(self, resume: Path | None, out: Path | None):
        self.out = out
        self.known: dict[str, Plan] = json.loads(resume.read_text()) if resume else {}
        self._keep()

    def of(self, pod: Pod, text: str, search: bool = False) -> Plan:
        """The plan of a config, given as YAML, on the pod's slice: a known one, or one made in a process of its own."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, f"{pod.name}.yaml")
            file.write_text(text)
            config = parse_train_config(["--config", str(file)])
            key, remat = programs(config, pod.topology), config.model.remat
            known = self.known.get(key)
            if known is None or (search and known["fits"] and known["max_rows_per_device"] is None):
                print(f"{pod.name}, remat {remat} ...", end="", flush=True, file=sys.stderr)
                self.known[key] = known = {"config": pod.name, "remat": remat, **_made(pod, file, search)}
                print(f" {known['peak_bytes'] / GIB:.2f} GiB, {_says(known)}", file=sys.stderr)
                self._keep()
        return known

    def _keep(self) -> None:
        if self.out:
            with whole(self.out) as temporary:
                temporary.write_text(json.dumps(self.known, indent=1) + "\n")


def _made(pod: Pod, config: Path, search: bool) -> Plan:
    out = config.with_suffix(".json")
    command = [sys.executable, "-m", "skyrm_jax.plan", "--config", str(config), "--topology", pod.topology]
    command += ["--json", str(out)] + ([] if search else ["--no-search"])
    done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"skyrm plan of {pod.name} failed:\n{done.stderr[-4000:]}")
    return json.loads(out.read_text())


def kept(a: Architecture, remat: str, tokens: int) -> int:
    """Bytes that the layers keep of so many tokens under this policy, at the least: `decoder.REMAT_POLICIES` by name."""
    heads, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    attention_out, qkv, middle, gate_up = heads, heads + 2 * kv, a.hidden, 2 * a.mlp
    more = {"full": 0, "attention": attention_out, "minimal": attention_out + qkv + middle + gate_up}[remat]
    return 2 * a.layers * tokens * (a.hidden + more)


def roomy(plan: Plan) -> bool:
    """Whether it fits with room to spare."""
    return plan["fits"] and plan["peak_bytes"] <= SHARE * plan["usable_bytes"]


def _says(plan: Plan) -> str:
    refused = ", ".join(one["name"] for one in plan["refused"])
    return "fits" if roomy(plan) else f"{refused} refused" if refused else "too tight"


def choose(pod: Pod, plan: Callable[[Pod, str], Plan]) -> str:
    """The policy that keeps the most and fits with room to spare.

    Raises:
        UserError: none does.
    """
    usable = SHARE * chip(pod.topology.split(":")[0]).usable
    for remat in POLICIES:
        config = pod.config(remat)
        tokens = max(config.data.row_lengths)  # of one row a chip
        if kept(stated_architecture(config), remat, tokens) <= usable and roomy(plan(pod, pod.text(remat))):
            return remat
    raise UserError(f"{pod.name}: no policy leaves {1 - SHARE:.0%} of a chip; choose a larger slice in SLICES")


def table(planned: Sequence[tuple[Pod, Plan]]) -> str:
    """Markdown; configs of the same programs, which are planned once, share a line."""
    lines: dict[str, list[str]] = {}
    for pod, plan in planned:
        key = f"{plan['config']} {plan['remat']}"
        if key in lines:
            lines[key][0] += f", {pod.base}"
            continue
        most, step = plan["max_rows_per_device"], plan["roofline_step_seconds"]
        lines[key] = [
            pod.base,
            pod.topology.replace(":", " "),
            str(pod.chips),
            plan["remat"],
            f"{plan['peak_bytes'] / GIB:.2f} / {plan['usable_bytes'] / GIB:.2f}"
            + ("" if plan["fits"] else " DOES NOT FIT"),
            "" if most is None else f"{most * plan['row_tokens']:,}",
            _scoring(plan["scoring"]),
            f"{plan['comparison']['model_flops'] / 1e12:.2f}",
            f"{duration(step['at_100_percent'])} / {duration(step['at_50_percent'])}",
            f"{max(one['compile_seconds'] for one in plan['programs'].values()):.0f} s" if plan["programs"] else "",
        ]
    head = [
        "Model",
        "Slice",
        "Chips",
        "Remat",
        "Peak / usable, GiB a chip",
        "Most tokens a chip",
        "Scoring, GiB a chip",
        "TFLOP a pair of 1,024 tokens",
        "Step of 10,240 pairs, at 100 % / 50 % of the datasheet",
        "Slowest program compiled in",
    ]
    keep = [column for column in range(len(head)) if any(row[column] for row in lines.values())]  # no search, no column
    return "\n".join(
        "| " + " | ".join(row[column] for column in keep) + " |" for row in [head, ["---"] * len(head), *lines.values()]
    )


def _scoring(plan: Plan) -> str:
    return f"{plan['peak_bytes'] / GIB:.2f}" if "peak_bytes" in plan else "does not fit"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="choose the remat of each and write its config")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="base configs, or configs of configs/pods")
    parser.add_argument("--search", action="store_true", help="also the most tokens that fit")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the plans")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="plans not to make again")
    given = parser.parse_args(arguments)
    unknown = set(given.only or ()) - {pod.base for pod in ALL} - {pod.name for pod in ALL}
    if unknown:
        parser.error(f"no such config: {', '.join(sorted(unknown))}; choose from {', '.join(SLICES)} or their pods")
    pods = [pod for pod in ALL if not given.only or {pod.base, pod.name} & set(given.only)]
    plans = Plans(given.resume, given.json)
    planned, failed = [], []
    for pod in pods:
        try:
            if given.write:
                pod.file.parent.mkdir(exist_ok=True)
                pod.file.write_text(pod.text(choose(pod, plans.of)))
            if not pod.file.exists():
                raise UserError(f"{pod.file} is not there: make it with --write --only {pod.name}")
            planned.append((pod, plans.of(pod, pod.file.read_text(), given.search)))
        except UserError as error:
            failed.append(str(error))
            print(error, file=sys.stderr)
    if planned:
        print(table(planned))
    failed += [f"{pod.name} does not fit" for pod, plan in planned if not plan["fits"]]
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
