"""The memory that an average needs."""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from skyrm_jax.convert.hf_export import write_hf
from skyrm_jax.convert.names import HfTensor
from skyrm_jax.convert.weights import DTYPES, EVERYTHING
from skyrm_jax.models.architecture import Architecture, Rope

MODEL = Architecture("qwen3", 8192, 1024, 4096, 24, 8, 4, 128, True, 1e-6, Rope(), 512, 0)
MEASURED = """
import sys
from pathlib import Path
from skyrm_jax.convert.cli import main
main(sys.argv[1:])
print("VmHWM", Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@dataclass(frozen=True)
class Ones:
    """Weights that nobody stores, in bfloat16."""

    architecture: Architecture

    def dtype(self, path: str) -> np.dtype:
        return DTYPES["bfloat16"]

    def read(self, tensor: HfTensor, rows: slice = EVERYTHING) -> np.ndarray:
        return np.ones(tensor.shape, DTYPES["bfloat16"])[rows]


def peak(folder: Path, layers: int) -> int:
    """VmHWM in bytes of a process that averages three models of so many layers."""
    source, out = folder / f"of{layers}", folder / f"mean{layers}"
    write_hf(source, Ones(replace(MODEL, layers=layers)), None)
    command = [sys.executable, "-c", MEASURED, "average", *[str(source)] * 3, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return 1024 * int(done.stdout.split("VmHWM")[1])


@pytest.mark.full
def test_memory_stays_far_below_one_models_size(tmp_path: Path) -> None:
    """Beyond what the average of models of one layer needs."""
    nbytes = 2 * MODEL.parameter_count()
    more = peak(tmp_path, MODEL.layers) - peak(tmp_path, 1)
    assert nbytes > 2**29 and more < nbytes / 4
