"""The compilation of the gpu attention: how its evidence is read, and, where the CUDA compiler is, the evidence itself."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jax.experimental import topologies

REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'backward_q_kernel' for 'sm_90a'
ptxas info    : Function properties for backward_q_kernel
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 184 registers, used 1 barriers
ptxas info    : Compiling entry function 'backward_kv_kernel_1' for 'sm_90a'
ptxas info    : Function properties for backward_kv_kernel_1
    40 bytes stack frame, 36 bytes spill stores, 44 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
ptxas info    : Compile time = 73.328 ms
"""

LAUNCHES = """\
019: kCustomKernel [prev=016 (3)  | next=021 (2)] loop_select_fusion_1 grid: [17, 1, 1] threads: [128, 1, 1]  shared_memory: 0 bytes
020: kCustomKernel [prev=017 (3)  | next=021 (1)] backward_q_kernel grid: [64, 8, 1] threads: [128, 1, 1]  shared_memory: 98560 bytes
021: kCustomKernel [prev=020 (1)  | sink        ] backward_kv_kernel_1 grid: [64, 4, 1] threads: [128, 1, 1]  shared_memory: 98816 bytes
"""


@pytest.fixture(scope="module")
def compile_gpu(tool: Any) -> ModuleType:
    return tool("compile_gpu")


def ptxas(folder: Path, report: str) -> str:
    """An assembler that reports the same of every file."""
    file = folder / "ptxas"
    file.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{report}END\n")
    file.chmod(0o755)
    return str(file)


def test_kernels_are_read_from_a_dump(compile_gpu: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "module_0001.jit_loss.thunk_sequence.txt").write_text(LAUNCHES)
    (tmp_path / "module_0001.jit_loss.3.ptx").write_text(".visible .entry backward_q_kernel(\n")
    (tmp_path / "module_0001.jit_loss.5.ptx").write_text(".visible .entry loop_select_fusion_1(\n")
    assert compile_gpu.kernels_in(tmp_path, ptxas(tmp_path, REPORT)) == [
        compile_gpu.Kernel("backward_kv_kernel", 255, 80, 98816),
        compile_gpu.Kernel("backward_q_kernel", 184, 0, 98560),
    ]


@pytest.mark.parametrize("missing", ["thunk_sequence.txt", "ptx"])
def test_a_dump_of_another_form_is_refused(compile_gpu: ModuleType, tmp_path: Path, missing: str) -> None:
    (tmp_path / "a.thunk_sequence.txt").write_text(LAUNCHES)
    (tmp_path / "a.ptx").write_text(".visible .entry backward_q_kernel(\n")
    (tmp_path / f"a.{missing}").unlink()
    with pytest.raises(SystemExit, match=r"jax 0\.10\.2 writes"):
        compile_gpu.kernels_in(tmp_path, ptxas(tmp_path, REPORT))


def test_a_missing_kernel_or_a_spill_is_a_fault(compile_gpu: ModuleType) -> None:
    case, kernel = compile_gpu.CASES["128"], compile_gpu.Kernel("forward_kernel", 164, 0, 82176)
    good = compile_gpu.Compiled(3, 1.0, [kernel])
    assert good.fault(case) is None
    assert good.fault(compile_gpu.CASES["recomputed"]) == "3 kernels in the program, 4 expected"
    assert replace(good, kernels=[kernel, replace(kernel, spilled=8)]).fault(case) == "spills: forward_kernel"


def test_without_the_cuda_compiler_it_says_what_to_install(
    compile_gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(**options: str) -> None:
        raise NotImplementedError(f"topology not implemented for {options['platform']}")

    monkeypatch.setattr(topologies, "get_topology_desc", absent)
    with pytest.raises(SystemExit, match=r'pip install "jax\[cuda12\]"'):
        compile_gpu.h100_mesh()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="ptxas is not there"):
        compile_gpu.find_ptxas()


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="the CUDA compiler is not installed")
def test_everything_fits_eight_h100(compile_gpu: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "compiled.json"
    command = [sys.executable, str(compile_gpu.__file__), "--json", str(file)]
    done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(file.read_text())["cases"].keys() == compile_gpu.CASES.keys()
