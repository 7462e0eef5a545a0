"""The gpu attention, compiled for eight H100 that are not there: what its kernels take of each GPU, and that they fit.

    python tools/compile_gpu.py [--only NAME] [--json FILE]

Needs `pip install "jax[cuda12]"`, 5.5 GB with the compiler and CUDA's libraries, and no GPU. It compiles forward and
backward passes, sharded over a mesh as in training, and then assembles the kernels' PTX once more, by the same
package's ptxas, which tells registers and spills. A case fails where a kernel is missing or spills; where one asks for
more shared memory than the GPU has, the compiler itself refuses it.

This shows that the programs compile and what they would take. It does not show that they ever ran.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from skyrm_jax.attention.gpu import GpuBackend
from skyrm_jax.models.sharding import ROW_AXES
from skyrm_jax.plan.topology import H100

ARCH = "sm_90a"

NO_CUDA = 'the CUDA compiler is not installed: pip install "jax[cuda12]" (5.5 GB; a GPU is not needed)'

TRITON_CALL = re.compile(r'custom_call_target="(?:__gpu\$xla\.gpu\.triton|triton_kernel_call\w*)"')
ENTRY = re.compile(r"\.entry (\w+_kernel)\w*\(")
ASSEMBLED = re.compile(
    r"entry function '(\w+_kernel)\w*'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers", re.S
)
LAUNCHED = re.compile(r"\b(\w+_kernel)\w* grid: .*shared_memory: (\d+) bytes")


@dataclass(frozen=True)
class Case:
    """Attention of `rows` rows a device, T tokens each, and how many kernels its program should hold."""

    rows: int
    T: int
    H: int
    G: int
    E: int
    dtype: str = "bfloat16"
    backward: bool = True
    policy: Callable[..., bool] = jax.checkpoint_policies.everything_saveable
    kernels: int = 3


NAMED = jax.checkpoint_policies.save_only_these_names("attention_out", "attention_lse")

CASES = {
    "64": Case(1, 4096, 16, 4, 64),
    "128": Case(1, 4096, 16, 8, 128),
    "128, odd group": Case(1, 4096, 10, 2, 128),
    "256, odd group": Case(1, 4096, 6, 2, 256),
    "64, fp32": Case(1, 1024, 16, 8, 64, "float32"),
    "128, fp32": Case(1, 1024, 16, 8, 128, "float32"),
    "256, fp32": Case(1, 1024, 4, 2, 256, "float32"),
    "short rows": Case(1, 100, 8, 4, 128),
    "long rows": Case(8, 32768, 4, 2, 128),
    "forward of 32 responses": Case(1, 33792, 16, 8, 128, backward=False, kernels=1),
    "recomputed": Case(1, 1024, 4, 2, 128, policy=jax.checkpoint_policies.nothing_saveable, kernels=4),
    "saved by name": Case(1, 1024, 4, 2, 128, policy=NAMED),
}


@dataclass(frozen=True)
class Kernel:
    """What one kernel takes: registers a thread, bytes a thread spills, bytes of shared memory a program."""

    name: str
    registers: int
    spilled: int
    shared: int


@dataclass(frozen=True)
class Compiled:
    """The Triton calls of a program, its seconds of compilation, and its kernels, each once."""

    calls: int
    seconds: float
    kernels: list[Kernel]

    def fault(self, case: Case) -> str | None:
        """Why this is not what it should be, if so."""
        if self.calls != case.kernels:
            return f"{self.calls} kernels in the program, {case.kernels} expected"
        spilling = [kernel.name for kernel in self.kernels if kernel.spilled]
        return f"spills: {', '.join(spilling)}" if spilling else None


def h100_mesh() -> Mesh:
    """Eight H100 as data x fsdp x model, 2 each.

    Raises:
        SystemExit: the CUDA plugin is not installed.
    """
    try:
        devices = topologies.get_topology_desc(platform="cuda", topology="1x1x8", target_config=H100).devices
    except NotImplementedError:
        raise SystemExit(NO_CUDA) from None
    return Mesh(np.array(devices).reshape(2, 2, 2), ("data", "fsdp", "model"), axis_types=(AxisType.Auto,) * 3)


def find_ptxas() -> str:
    """The assembler of the CUDA packages, or else of the PATH.

    Raises:
        SystemExit: there is none.
    """
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for found in sorted(Path(folder).glob("*/bin/ptxas")):
            return str(found)
    found_on_path = shutil.which("ptxas")
    if found_on_path is None:
        raise SystemExit(f"ptxas is not there: {NO_CUDA}")
    return found_on_path


def compile_case(mesh: Mesh, case: Case, dump: Path, ptxas: str) -> Compiled:
    """Compiles a case on all of `mesh`, leaving what XLA made of it in `dump`."""
    backend = GpuBackend()

    def out(q: jax.Array, k: jax.Array, v: jax.Array, end: jax.Array) -> jax.Array:
        mask = backend.prepare(end)
        return jax.checkpoint(backend.attend, policy=case.policy)(q, k, v, mask)

    def loss(*inputs: jax.Array) -> jax.Array:
        return jnp.sum(out(*inputs).astype(jnp.float32) ** 2)

    B = case.rows * mesh.shape["data"] * mesh.shape["fsdp"]
    across_heads, across_rows = (NamedSharding(mesh, P(ROW_AXES, *rest)) for rest in ((None, "model"), ()))
    q, k = (jax.ShapeDtypeStruct((B, case.T, n, case.E), case.dtype, sharding=across_heads) for n in (case.H, case.G))
    end = jax.ShapeDtypeStruct((B, case.T), jnp.int32, sharding=across_rows)
    began = time.perf_counter()
    with jax.set_mesh(mesh):
        program = jax.jit(jax.value_and_grad(loss, (0, 1, 2)) if case.backward else out)
        compiled = program.lower(q, k, k, end).compile(compiler_options={"xla_dump_to": str(dump)})
    seconds = time.perf_counter() - began
    calls = TRITON_CALL.findall(compiled.as_text() or "")
    return Compiled(len(calls), round(seconds, 1), kernels_in(dump, ptxas))


def kernels_in(dump: Path, ptxas: str) -> list[Kernel]:
    """The attention kernels of a dump.

    Raises:
        SystemExit: ptxas refuses one, or the dump does not hold what this tool reads: XLA has changed its form.
    """
    launched = "".join(file.read_text() for file in sorted(dump.glob("*.thunk_sequence.txt")))
    shared = parse_shared(launched)
    kernels = set()
    for file in sorted(dump.glob("*.ptx")):
        if ENTRY.search(file.read_text()):
            command = [ptxas, "-v", f"-arch={ARCH}", str(file), "-o", os.devnull]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"ptxas refuses {file.name}: {done.stderr}")
            kernels |= {Kernel(*found, shared.get(found[0], -1)) for found in parse_ptxas(done.stderr)}
    if not kernels or any(kernel.shared < 0 for kernel in kernels):
        raise SystemExit(
            f"XLA's dump has not the PTX and the launches that jax 0.10.2 writes; this is {jax.__version__}"
        )
    return sorted(kernels, key=lambda kernel: kernel.name)


def parse_ptxas(report: str) -> list[tuple[str, int, int]]:
    """Name, registers, and bytes of spill stores and loads together, of every kernel that `ptxas -v` reports."""
    return [(name, int(used), int(stores) + int(loads)) for name, stores, loads, used in ASSEMBLED.findall(report)]


def parse_shared(launches: str) -> dict[str, int]:
    """Bytes of shared memory of every kernel in XLA's sequence of launches."""
    return {name: int(size) for name, size in LAUNCHED.findall(launches)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="compile the cases whose name has this in it")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # that there is no GPU is no news
    jax.config.update("jax_platforms", "cpu")  # the plugin would look for a GPU; compiling needs none
    mesh, ptxas = h100_mesh(), find_ptxas()
    results, faults = {}, []
    print(f"{'case':24} {'seconds':>7}  {'kernel':18} {'registers':>9} {'spilled B':>9} {'shared KiB':>10}", flush=True)
    for name, case in CASES.items():
        if args.only in name:
            with tempfile.TemporaryDirectory(prefix="compile_gpu_") as dump:
                compiled = compile_case(mesh, case, Path(dump), ptxas)
            results[name] = asdict(compiled)
            for i, one in enumerate(compiled.kernels):
                first = f"{'' if i else name:24} {'' if i else compiled.seconds:>7}"
                row = f"{one.name:18} {one.registers:9} {one.spilled:9} {one.shared / 1024:10.1f}"
                print(f"{first}  {row}", flush=True)
            if fault := compiled.fault(case):
                faults.append(f"{name}: {fault}")
    if args.json:
        about = {"compiled for": f"8 x H100 ({ARCH}), never run", "jax": jax.__version__, "cases": results}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(about, indent=2) + "\n")
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
