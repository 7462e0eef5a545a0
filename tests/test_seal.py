"""The seal of a checkpoint: whatever happens to a file is found, and the file named."""

import shutil
from pathlib import Path

import pytest
from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyrm_jax.seal import SEAL, damage, is_sealed, seal

FILES = {"model/d/0a1b": bytes(range(256)) * 40, "model/_METADATA": b"{}", "meta/metadata": b'{"step": 3}', "e": b""}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed")
    for name, body in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    assert not is_sealed(epath.Path(folder))
    seal(epath.Path(folder))
    return folder


def test_what_is_whole_is_whole(sealed: Path, tmp_path: Path) -> None:
    assert is_sealed(epath.Path(sealed)) and damage(epath.Path(sealed)) is None
    moved = tmp_path / "elsewhere"
    shutil.copytree(sealed, moved)
    assert damage(epath.Path(moved)) is None
    assert [line.split()[2] for line in (moved / SEAL).read_text().splitlines()[:-1]] == sorted(FILES)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_any_bit_any_cut_and_any_loss_is_found(sealed: Path, tmp_path: Path, data: st.DataObject) -> None:
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(sealed, copy)
    name = data.draw(st.sampled_from([*FILES, SEAL]))
    file = copy / name
    body = bytearray(file.read_bytes())
    kinds = ["lost", "grown", *(["flipped", "cut"] if body else [])]
    kind = data.draw(st.sampled_from(kinds))
    if kind == "lost":
        file.unlink()
    elif kind == "grown":
        file.write_bytes(body + b"\0")
    elif kind == "cut":
        file.write_bytes(body[: data.draw(st.integers(0, len(body) - 1))])
    else:
        body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(body)
    fault = damage(epath.Path(copy))
    assert fault is not None and str(file) in fault


def test_only_the_parts_asked_for_are_read(sealed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(sealed, copy)
    (copy / "meta" / "metadata").write_text("other")
    assert damage(epath.Path(copy), ("model",)) is None
    assert damage(epath.Path(copy), ("model", "meta")) == f"{copy}/meta/metadata has 5 bytes instead of 11"
