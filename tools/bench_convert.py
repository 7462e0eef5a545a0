"""How fast and how small conversion is: Hugging Face -> our checkpoint -> Hugging Face, beside copying the same bytes.

    python tools/bench_convert.py [--config configs/llama3.1_8b.yaml] [--folder SCRATCH] [--repeats 1] [--json FILE]

Writes a checkpoint of random weights in the shape of a published model (sharded safetensors), and then times a copy of
its files with fsync, the round trip, whose result must equal the original byte for byte, and a second copy. All start
with the original's pages dropped from the page cache. Memory is the greatest VmHWM of the two conversions, less that of
an interpreter that has loaded jax and nothing else.

Needs room for three times the model, 45 GB for the 8B: the original, our checkpoint and the model that comes back. The
original stays in --folder for the next run; without --folder all is in a temporary folder beside FILE and is removed.

    ratio = seconds of the round trip / (2 x seconds of one copy)
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from skyrm_jax.config import parse_train_config
from skyrm_jax.convert.hf import HfWeights
from skyrm_jax.convert.hf_export import write_hf
from skyrm_jax.convert.names import HfTensor, hf_tensors
from skyrm_jax.convert.weights import DTYPES, EVERYTHING
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.train.setup import hf_config

CONFIG = Path(__file__).parents[1] / "configs" / "llama3.1_8b.yaml"

MEASURED = """
import sys
from pathlib import Path
import jax
jax.devices()
if len(sys.argv) > 1:
    from skyrm_jax.convert.cli import main
    main(sys.argv[1:])
status = Path("/proc/self/status").read_text()
print("VmHWM", status.split("VmHWM:")[1].split()[0])
"""


@dataclass(frozen=True)
class RandomWeights:
    """Weights that nobody stores: the same small numbers for the same tensor, in bfloat16."""

    architecture: Architecture

    def dtype(self, path: str) -> np.dtype:
        return DTYPES["bfloat16"]

    def read(self, tensor: HfTensor, rows: slice = EVERYTHING) -> np.ndarray:
        shape = (len(range(*rows.indices(tensor.shape[0]))), *tensor.shape[1:])
        seed = [zlib.crc32(tensor.name.encode()), rows.start or 0]
        bits = np.random.default_rng(seed).integers(0, 2**16, shape, dtype=np.uint16)
        # Any sign and mantissa, exponents from 2^-15 to 2^0: no NaN, and large enough for any dtype.
        return ((bits & 0x87FF) | 0x3800).view(DTYPES["bfloat16"])


def drop_from_cache(folder: Path) -> None:
    for file in files_of(folder):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def copy(source: Path, target: Path) -> float:
    """Seconds to copy a folder's files and force them to disk."""
    drop_from_cache(source)
    began = time.perf_counter()
    target.mkdir()
    for file in files_of(source):
        shutil.copyfile(file, target / file.name)
        with (target / file.name).open("rb") as opened:
            os.fsync(opened.fileno())
    seconds = time.perf_counter() - began
    shutil.rmtree(target)
    return seconds


def peak_kib(*arguments: str) -> int:
    """VmHWM of an interpreter with jax that runs `skyrm convert ARGUMENTS`, or nothing."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout.split("VmHWM")[1])


def round_trip(source: Path, ours: Path, back: Path, max_shard_gib: float) -> tuple[float, float, int]:
    """Seconds in and out, and peak KiB."""
    drop_from_cache(source)
    began = time.perf_counter()
    peak = peak_kib("from-hf", str(source), str(ours))
    middle = time.perf_counter()
    drop_from_cache(ours)
    peak = max(peak, peak_kib("to-hf", str(ours), str(back), "--max-shard-gib", str(max_shard_gib)))
    return middle - began, time.perf_counter() - middle, peak


def check_equal(source: Path, back: Path) -> None:
    """Raises SystemExit unless the weights are the same, byte for byte."""
    one, other = HfWeights(source), HfWeights(back)
    for tensor in hf_tensors(one.architecture):
        if one.read(tensor).tobytes() != other.read(tensor).tobytes():
            raise SystemExit(f"{tensor.name} differs after the round trip")


def require_room(folder: Path, nbytes: int) -> None:
    """Raises SystemExit unless `nbytes` fit on the disk of `folder`, with a hundredth to spare."""
    free, wanted = shutil.disk_usage(folder).free, nbytes * 1.01
    if free < wanted:
        raise SystemExit(
            f"{folder} has {free / 1e9:.1f} GB free, and {wanted / 1e9:.1f} GB are needed: give a --folder with more room"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(CONFIG), help="whose model.architecture is taken")
    parser.add_argument("--folder", type=Path, help="where there is room for three times the model")
    parser.add_argument("--layers", type=int, help="fewer than the config has, for a quick look")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--max-shard-gib", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    beside = args.json.parent if args.json else Path()
    beside.mkdir(parents=True, exist_ok=True)
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
        result = measure(args, args.folder)
    else:
        with tempfile.TemporaryDirectory(prefix="bench_convert_", dir=beside) as temporary:
            result = measure(args, Path(temporary))
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The result, with everything that is written below `folder`."""
    source, ours, back, copied = (folder / name for name in ("hf", "ours", "back", "copy"))
    remove(ours, back, copied)  # of a run that was interrupted
    architecture = Architecture.from_hf(hf_config(parse_train_config(["--config", args.config]).model.architecture))
    if args.layers:
        architecture = replace(architecture, layers=args.layers)
    if source.exists() and HfWeights(source).architecture != architecture:
        raise SystemExit(f"{source} holds another model: remove it, or give another --folder")
    require_room(folder, (2 if source.exists() else 3) * 2 * architecture.parameter_count())
    if not source.exists():
        write_hf(source, RandomWeights(architecture), None, max_shard_bytes=int(args.max_shard_gib * 2**30))
    nbytes = sum(file.stat().st_size for file in files_of(source))
    bare = peak_kib()
    copies, trips, peaks = [], [], []
    for _ in range(args.repeats):
        copies.append(copy(source, copied))
        into, out, peak = round_trip(source, ours, back, args.max_shard_gib)
        trips.append(into + out)
        peaks.append(peak)
        check_equal(source, back)
        remove(ours, back)
        copies.append(copy(source, copied))
        print(f"copies {copies[-2]:.1f} s and {copies[-1]:.1f} s; in {into:.1f} s, out {out:.1f} s", flush=True)
    return {
        "config": args.config,
        "gib": nbytes / 2**30,
        "seconds": statistics.median(trips),
        "cp_seconds": statistics.median(copies),
        "ratio": statistics.median(trips) / (2 * statistics.median(copies)),
        "peak_rss_gib": (max(peaks) - bare) / 2**20,
        "bare_rss_gib": bare / 2**20,
        "all_seconds": trips,
        "all_cp_seconds": copies,
        "byte_identical": True,
    }


if __name__ == "__main__":
    main()
