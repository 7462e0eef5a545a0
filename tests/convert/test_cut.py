"""What is said of a pytorch_model.bin that torch cannot map. (safetensors: test_hf.py; GGUF: test_gguf.py.)"""

from pathlib import Path

import pytest
from small_models import QWEN3_SMALL, hf_model

from skyrm_jax.convert.cli import main
from skyrm_jax.convert.hf import read_hf
from skyrm_jax.errors import UserError

torch = pytest.importorskip("torch")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = hf_model(QWEN3_SMALL)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    return tmp_path


def refused(folder: Path, message: str) -> str:
    with pytest.raises(UserError, match=message) as caught:
        main(["from-hf", str(folder), str(folder / "ours")])
    return str(caught.value)


def test_one_that_was_cut_short(folder: Path) -> None:
    file = folder / "pytorch_model.bin"
    whole = file.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 20):
        file.write_bytes(whole[:size])
        refused(folder, rf"pytorch_model\.bin is cut short: it has {size:,} bytes and lacks its end.*fetch it again")


def test_one_of_a_torch_before_1_6_and_its_remedy(folder: Path) -> None:
    file = folder / "pytorch_model.bin"
    expected = read_hf(folder)[1]
    torch.save(torch.load(file), file, _use_new_zipfile_serialization=False)
    said = refused(folder, r"pytorch_model\.bin has the format of torch before 1\.6.*save it anew: torch\.save")
    exec(said.split("save it anew: ")[1], {"torch": torch})
    assert (read_hf(folder)[1]["embed"] == expected["embed"]).all()


def test_one_that_is_something_else(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not a file of torch")
    refused(folder, r"pytorch_model\.bin cannot be read as plain tensors: ")
