"""Conversion one tensor at a time: what Orbax finds, what survives a kill, what a damaged file says."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyrm_jax import checkpoint
from skyrm_jax.convert import streamed, weights
from skyrm_jax.convert.cli import main
from skyrm_jax.convert.hf import HfWeights, read_hf
from skyrm_jax.convert.hf_export import write_hf
from skyrm_jax.convert.names import hf_tensors
from skyrm_jax.convert.sources import open_model
from skyrm_jax.convert.stored import StoredWeights
from skyrm_jax.convert.streamed import chunk_shape, write_checkpoint
from skyrm_jax.convert.weights import MemoryWeights, check_finite, in_memory
from skyrm_jax.errors import UserError
from skyrm_jax.folders import made_whole
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.parameters import Params, flattened, map_table, parameter_table
from skyrm_jax.seal import seal

QWEN3 = Architecture("qwen3", 640, 64, 96, 3, 4, 2, 16, True, 1e-6, Rope(), 512, 7)
LLAMA = Architecture("llama", 640, 64, 96, 3, 4, 2, 16, False, 1e-5, Rope("llama3", 5e5, 8.0), 512, 7)


def random_params(architecture: Architecture, dtype: str = "float32", seed: int = 0) -> Params:
    rng = np.random.default_rng(seed)
    return map_table(architecture, lambda _, spec: rng.normal(size=spec.shape).astype(weights.DTYPES[dtype]))


def assert_same(ours: Params, theirs: Params) -> None:
    one, other = flattened(ours), flattened(theirs)
    assert one.keys() == other.keys()
    for path, value in one.items():
        assert value.dtype == other[path].dtype and np.asarray(value).tobytes() == np.asarray(other[path]).tobytes(), (
            path
        )


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.mark.parametrize("architecture", [QWEN3, LLAMA], ids=lambda a: a.model_type)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("chunk_bytes", [2**24, 2**10])
def test_orbax_restores_what_was_streamed(
    tmp_path: Path,
    tokenizer: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: Architecture,
    dtype: str,
    chunk_bytes: int,
) -> None:
    monkeypatch.setattr(streamed, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(weights, "PIECE_BYTES", 4 * chunk_bytes)
    params = random_params(architecture, dtype)
    write_checkpoint(tmp_path / "out", MemoryWeights.of(architecture, params), tokenizer, {"base": "b"})
    found = checkpoint.locate(tmp_path / "out")
    assert found is not None and found.architecture == architecture and found.meta["base"] == "b"
    assert (found.tokenizer / "tokenizer.json").read_text() == "{}"
    assert_same(params, jax.device_get(checkpoint.restore_params(found)))
    assert_same(params, in_memory(StoredWeights(found)))


ON_MESHES = """
import sys, jax, numpy as np
from skyrm_jax import checkpoint
from skyrm_jax.convert.stored import StoredWeights
from skyrm_jax.convert.weights import in_memory
from skyrm_jax.mesh import make_mesh
from skyrm_jax.models.parameters import flattened
found = checkpoint.locate(sys.argv[1])
expected = flattened(in_memory(StoredWeights(found)))
for sizes in [(8, 1, 1), (1, 8, 1), (2, 2, 2)]:
    restored = flattened(checkpoint.restore_params(found, make_mesh(*sizes)))
    for path, value in restored.items():
        for shard in value.addressable_shards:
            assert np.array_equal(np.asarray(shard.data), expected[path][shard.index]), (sizes, path)
    print(len(restored["layers.gate"].sharding.device_set))
"""


def test_every_mesh_restores_its_own_shards(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "CHUNK_BYTES", 2**10)
    write_checkpoint(tmp_path / "out", MemoryWeights.of(QWEN3, random_params(QWEN3)), tokenizer, {})
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-c", ON_MESHES, str(tmp_path / "out")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["8", "8", "8"], done.stderr


IN_TWO_PROCESSES = """
import json, sys, jax, numpy as np, tensorstore as ts
jax.config.update("jax_num_cpu_devices", 2)
ours, hf, address, process = sys.argv[1:]
jax.distributed.initialize(address, 2, int(process))
from skyrm_jax import checkpoint
from skyrm_jax.convert.hf import read_hf
from skyrm_jax.mesh import make_mesh
from skyrm_jax.models.parameters import flattened

def bytes_read():
    metrics = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
    return sum(value["value"] for metric in metrics for value in metric["values"])

found, expected = checkpoint.locate(ours), flattened(read_hf(hf)[1])
for sizes in [(1, 4, 1), (1, 2, 2)]:
    before = bytes_read()
    restored = flattened(jax.block_until_ready(checkpoint.restore_params(found, make_mesh(*sizes))))
    shards = {(path, str(shard.index)): shard.data.nbytes
              for path, value in restored.items() for shard in value.addressable_shards}
    print(json.dumps([sizes, bytes_read() - before, sum(shards.values())]))
    for tree in (restored, flattened(checkpoint.load_model(hf, make_mesh(*sizes)).params)):
        for path, value in tree.items():
            assert value.sharding == restored[path].sharding
            for shard in value.addressable_shards:
                assert np.array_equal(np.asarray(shard.data), expected[path][shard.index]), (sizes, path)
"""


def test_each_process_reads_only_its_own_shards(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TensorStore counts the bytes, on two processes of two devices each."""
    monkeypatch.setattr(streamed, "CHUNK_BYTES", 2**10)
    model = MemoryWeights.of(QWEN3, random_params(QWEN3))
    write_checkpoint(tmp_path / "out", model, tokenizer, {})
    write_hf(tmp_path / "hf", model, tokenizer)
    whole = sum(array.nbytes for array in model.flat.values())
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-c", IN_TWO_PROCESSES, str(tmp_path / "out"), str(tmp_path / "hf"), address]
    both = [
        subprocess.Popen([*command, str(process)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for process in range(2)
    ]
    for process in both:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        # Gloo writes there too, at times into the same line.
        answers = [json.loads(answer) for answer in re.findall(r"\[\[[^]]*\][^]]*\]", out)]
        assert len(answers) == 2
        for sizes, read, shards in answers:
            assert shards <= read <= 1.02 * shards < 0.6 * whole, sizes


def test_what_orbax_saved_itself_is_read_layer_by_layer(tmp_path: Path, tokenizer: Path) -> None:
    """As training does: OCDBT, compressed, in chunks of a layer."""
    import orbax.checkpoint as ocp

    params = random_params(QWEN3)
    meta = checkpoint.metadata(QWEN3, {path: "float32" for path in parameter_table(QWEN3)}, {})
    folder = checkpoint.folder_of(tmp_path, 3)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as saver:
        saver.save(folder, args=checkpoint.items(QWEN3, jax.tree.map(jnp.asarray, params), meta))
    seal(folder)
    found = checkpoint.locate(tmp_path)
    assert found is not None
    assert_same(params, in_memory(StoredWeights(found)))


def test_chunks_of_a_trained_8b_model_hold_a_layer_at_most_and_are_not_crumbs() -> None:
    from orbax.checkpoint._src.arrays import subchunking  # the rule that save_args relies on

    large = Architecture("qwen3", 151_936, 4096, 12_288, 36, 32, 8, 128, True, 1e-6, Rope(), 512, 7)
    args = flattened(checkpoint.save_args(large))
    for path, spec in parameter_table(large).items():
        save = args[path]
        dtype = np.dtype(np.float32)
        chunk = subchunking.choose_chunk_shape(
            spec.shape, spec.shape, dtype, save.chunk_byte_size, shard_axes=save.shard_axes
        )
        nbytes = int(np.prod(chunk)) * 4
        assert nbytes <= checkpoint.CHUNK_BYTES
        assert nbytes >= min(checkpoint.CHUNK_BYTES // 8, int(np.prod(spec.shape)) * 4), path
        if len(spec.shape) == 3:
            assert chunk[0] == 1


@given(
    st.integers(1, 7),
    st.sampled_from([64, 96, 4096, 5120]),
    st.sampled_from([64, 384, 14336]),
    st.sampled_from(["bfloat16", "float32"]),
)
def test_chunks_are_small_and_whole(layers: int, hidden: int, mlp: int, dtype: str) -> None:
    architecture = Architecture("qwen3", 151_936, hidden, mlp, layers, 4, 2, 128, True, 1e-6, Rope(), 512, 7)
    target = weights.DTYPES[dtype]
    for path, spec in parameter_table(architecture).items():
        chunk = chunk_shape(spec, target, 16_384 if path == "embed" else None)
        assert all(0 < part <= size for part, size in zip(chunk, spec.shape, strict=True))
        assert np.prod(chunk) * target.itemsize <= streamed.CHUNK_BYTES or 1 in chunk[1:]
        if spec.axes[0] == "layers":
            assert chunk[0] == 1
        # Small meshes find their shards in whole chunks, or whole shards in a chunk.
        if not hidden % 64 and not mlp % 64 and path != "embed":
            for size, part, name in zip(spec.shape, chunk, spec.axes, strict=True):
                for ways in (2, 4):
                    shard = size // ways
                    assert name not in ("hidden", "mlp") or shard % part == 0 or part % shard == 0


# ---- damage


def shard_of(folder: Path, name: str) -> Path:
    return folder / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][name]


@pytest.fixture
def hf(tmp_path: Path, tokenizer: Path) -> Path:
    write_hf(
        tmp_path / "hf", MemoryWeights.of(LLAMA, random_params(LLAMA, "bfloat16")), tokenizer, max_shard_bytes=2**15
    )
    return tmp_path / "hf"


def overwrite(file: Path, name: str, data: bytes) -> None:
    """Puts bytes at the beginning of a tensor."""
    raw = bytearray(file.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    begin = json.loads(raw[8 : 8 + length])[name]["data_offsets"][0] + 8 + length
    raw[begin : begin + len(data)] = data
    file.write_bytes(raw)


@pytest.mark.parametrize(
    "bits", [b"\xc0\x7f", b"\xc0\xff", b"\x80\x7f", b"\x80\xff"], ids=["nan", "-nan", "inf", "-inf"]
)
def test_numbers_that_are_none_are_named_and_nothing_is_left(tmp_path: Path, hf: Path, bits: bytes) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    overwrite(shard_of(hf, name), name, bits)
    with pytest.raises(UserError, match=f"{name} has 1 values that are NaN or infinite"):
        main(["from-hf", str(hf), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*partial"))


@given(st.lists(st.floats(width=16), min_size=1, max_size=9))
def test_finite_is_what_numpy_says(values: list[float]) -> None:
    for dtype in weights.DTYPES.values():
        with np.errstate(over="ignore"):
            array = np.array(values).astype(dtype)
        if np.isfinite(array.astype(np.float32)).all():
            check_finite(array, "x")
        else:
            with pytest.raises(UserError, match="NaN or infinite"):
                check_finite(array, "x")


def test_a_damaged_checkpoint_of_ours_names_the_parameter(tmp_path: Path, hf: Path) -> None:
    main(["from-hf", str(hf), str(tmp_path / "ours")])
    folder = tmp_path / "ours" / "checkpoints" / "0" / "model" / "layers.gate"
    chunk = next(file for file in folder.iterdir() if file.name.startswith("2."))
    chunk.write_bytes(chunk.read_bytes()[:-2])

    def says(sealed: str, read: str) -> None:
        """Of the command, which reads checksums first, and of what reads the arrays, should they change later."""
        with pytest.raises(UserError, match=sealed):
            main(["to-hf", str(tmp_path / "ours"), str(tmp_path / "out")])
        with pytest.raises(UserError, match=read):
            in_memory(StoredWeights(checkpoint.Located.read(tmp_path / "ours", 0)))

    says(r"layers\.gate/2\.0.* has \d+ bytes instead of \d+", r"layers\.gate is damaged")
    chunk.unlink()  # as a copy that was broken off leaves it: not zeros
    says(r"layers\.gate/2\.0.* is missing", r"layers\.gate is damaged.*missing")
    (folder / ".zarray").unlink()
    says(r"layers\.gate/\.zarray is missing", r"layers\.gate cannot be opened")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize("command", [["from-hf", "hf"], ["to-hf", "ours"]], ids=["in", "out"])
def test_a_killed_conversion_leaves_nothing_that_looks_finished(tmp_path: Path, hf: Path, command: list[str]) -> None:
    main(["from-hf", str(hf), str(tmp_path / "ours")])
    slow = (
        "import sys, time; from skyrm_jax.convert import cli, hf, stored\n"
        "for kind in (hf.HfWeights, stored.StoredWeights):\n"
        "    kind.read = lambda *a, read=kind.read: (time.sleep(0.05), read(*a))[1]\n"
        "cli.main(sys.argv[1:])"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, *command, "out"], cwd=tmp_path)
    partial = tmp_path / ".out.partial"
    while not partial.exists() or not any(file.stat().st_size for file in partial.rglob("*") if file.is_file()):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists() and not (tmp_path / "out").exists()
    main([*[str(tmp_path / part) if part in ("hf", "ours") else part for part in command], str(tmp_path / "out")])
    model = open_model(str(tmp_path / "out"))
    assert_same(in_memory(HfWeights(hf)), in_memory(model.weights))
    assert not partial.exists()


# ---- other inputs


def test_a_torch_pickle_is_read_as_plain_tensors_only(tmp_path: Path, hf: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    tensors: dict[str, Any] = {}
    for file in hf.glob("*.safetensors*"):
        if file.suffix == ".safetensors":
            tensors |= load_file(file)
    expected = in_memory(HfWeights(hf))
    for file in hf.glob("*.safetensors*"):
        file.unlink()
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2])):
        torch.save({name: tensors[name] for name in part}, hf / f"part{number}.bin")
    where = {name: f"part{number}.bin" for number, part in enumerate((names[::2], names[1::2])) for name in part}
    (hf / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    main(["from-hf", str(hf), str(tmp_path / "ours")])
    assert_same(expected, in_memory(open_model(str(tmp_path / "ours")).weights))

    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({**{name: tensors[name] for name in names[::2]}, "x": Evil()}, hf / "part0.bin")
    with pytest.raises(UserError, match=r"part0\.bin cannot be read as plain tensors"):
        main(["from-hf", str(hf), str(tmp_path / "evil")])
    assert not (tmp_path / "owned").exists()


def test_orbax_has_nothing_to_warn_of(tmp_path: Path, hf: Path) -> None:
    command = [sys.executable, "-m", "skyrm_jax.convert", "from-hf", str(hf), str(tmp_path / "ours")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not re.search(r"absl|orbax|tensorstore", done.stderr), done.stderr


def test_a_resized_vocabulary_is_the_models(tmp_path: Path, tokenizer: Path) -> None:
    odd = Architecture("qwen3", 643, 64, 96, 1, 4, 2, 16, True, 1e-6, Rope(), 512, 7)
    write_hf(tmp_path / "hf", MemoryWeights.of(odd, random_params(odd)), tokenizer)
    main(["from-hf", str(tmp_path / "hf"), str(tmp_path / "ours")])
    assert_same(read_hf(tmp_path / "hf")[1], in_memory(open_model(str(tmp_path / "ours")).weights))
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config | {"vocab_size": 640}))
    with pytest.raises(UserError, match=r"embed_tokens\.weight has shape \(643, 64\)"):
        main(["from-hf", str(tmp_path / "hf"), str(tmp_path / "again")])


def test_an_old_torch_is_refused(tmp_path: Path, hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    for file in hf.glob("*.safetensors*"):
        file.unlink()
    torch.save({"epoch": 3}, hf / "pytorch_model.bin")
    with pytest.raises(UserError, match="not a mapping of names to tensors"):
        main(["from-hf", str(hf), str(tmp_path / "ours")])
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(UserError, match=r"torch 2\.6 or later"):
        main(["from-hf", str(hf), str(tmp_path / "ours")])
    (hf / "pytorch_model.bin").unlink()
    (hf / "model.gguf").touch()
    with pytest.raises(UserError, match="skyrm convert from-gguf"):
        main(["from-hf", str(hf), str(tmp_path / "ours")])


def test_folders_with_odd_names(tmp_path: Path, hf: Path) -> None:
    for name in ("a%20b", "c#d", "e?f", "g|h"):
        main(["from-hf", str(hf), str(tmp_path / name)])
        assert_same(in_memory(HfWeights(hf)), in_memory(open_model(str(tmp_path / name)).weights))


def test_two_conversions_to_one_folder_do_not_mix(tmp_path: Path, hf: Path) -> None:
    with made_whole(tmp_path / "out") as first:
        (first / "mine").touch()
        with pytest.raises(UserError, match="written by another process"):
            main(["from-hf", str(hf), str(tmp_path / "out")])
        assert (first / "mine").exists()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]
    assert not list(tmp_path.glob(".out*"))


def test_numbers_too_large_for_the_dtype_are_named(tmp_path: Path, tokenizer: Path) -> None:
    params = random_params(QWEN3)
    params["final_norm"][3] = 70_000
    write_hf(tmp_path / "hf", MemoryWeights.of(QWEN3, params), tokenizer)
    for command in (["from-hf", "hf", "out"], ["to-hf", "hf", "out"]):
        full = [str(tmp_path / part) if part in ("hf", "out") else part for part in command]
        with pytest.raises(UserError, match=r"model\.norm\.weight, once it is float16, has 1 values"):
            main([*full, "--dtype", "float16"])


def test_layers_of_different_dtypes_are_read_with_a_dtype(tmp_path: Path, hf: Path) -> None:
    file = shard_of(hf, "model.norm.weight")
    from safetensors.numpy import load_file, save_file

    mixed = shard_of(hf, "model.layers.1.mlp.up_proj.weight")
    tensors = load_file(mixed)
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"].astype(np.float32)
    save_file(tensors, mixed)
    assert file.exists()
    with pytest.raises(UserError, match="--dtype"):
        main(["to-hf", str(hf), str(tmp_path / "out")])
    main(["to-hf", str(hf), str(tmp_path / "out"), "--dtype", "bfloat16"])
    assert checkpoint.load_model(str(hf), dtype="float32").params["embed"].dtype == "float32"


# ---- averages


def test_the_mean_of_checkpoints(tmp_path: Path, tokenizer: Path) -> None:
    one, other = random_params(QWEN3), random_params(QWEN3, seed=1)
    write_hf(tmp_path / "hf", MemoryWeights.of(QWEN3, one), tokenizer)
    write_checkpoint(tmp_path / "ours", MemoryWeights.of(QWEN3, other), tokenizer, {})
    sources = [str(tmp_path / "hf"), str(tmp_path / "ours")]
    main(["average", *sources, "--out", str(tmp_path / "mean"), "--weights", "3", "1"])
    model = open_model(str(tmp_path / "mean"))
    assert model.meta["average_of"] == [[sources[0], 0.75], [sources[1], 0.25]]
    for path, value in flattened(in_memory(model.weights)).items():
        np.testing.assert_allclose(
            value, 0.75 * flattened(one)[path] + 0.25 * flattened(other)[path], rtol=1e-5, atol=1e-6
        )
    low = [str(tmp_path / f"low{number}") for number in range(2)]
    for source, name in zip(sources, low, strict=True):
        main(["to-hf", source, name, "--dtype", "bfloat16"])
    main(["average", *low, "--out", str(tmp_path / "high"), "--dtype", "float32"])
    high = flattened(in_memory(open_model(str(tmp_path / "high")).weights))
    exact = [flattened(in_memory(HfWeights(Path(name)))) for name in low]
    for path, value in high.items():  # the mean itself, not the mean rounded to bfloat16
        mean = (exact[0][path].astype(np.float32) + exact[1][path].astype(np.float32)) / 2
        np.testing.assert_array_equal(value, mean)
    main(["average", sources[0], sources[0], "--out", str(tmp_path / "same")])
    assert_same(one, in_memory(open_model(str(tmp_path / "same")).weights))


@pytest.mark.parametrize(
    ("weights", "said"), [(["1"], "2 models but 1 weights"), (["-1", "2"], "may be negative"), (["0", "0"], "positive")]
)
def test_shares_that_are_none(tmp_path: Path, tokenizer: Path, weights: list[str], said: str) -> None:
    write_hf(tmp_path / "hf", MemoryWeights.of(QWEN3, random_params(QWEN3)), tokenizer)
    with pytest.raises(UserError, match=said):
        main(["average", *[str(tmp_path / "hf")] * 2, "--out", str(tmp_path / "mean"), "--weights", *weights])


def test_models_that_differ_are_not_averaged(tmp_path: Path, tokenizer: Path) -> None:
    for architecture in (QWEN3, LLAMA):
        model = MemoryWeights.of(architecture, random_params(architecture))
        write_hf(tmp_path / architecture.model_type, model, tokenizer)
    with pytest.raises(UserError, match="cannot be averaged: model_type is qwen3 in one, llama in the other"):
        main(["average", str(tmp_path / "qwen3"), str(tmp_path / "llama"), "--out", str(tmp_path / "mean")])
    assert len(list(hf_tensors(QWEN3))) == QWEN3.tensor_count()
