"""What all tests share."""

import os
import sys
import tempfile
from pathlib import Path

import jax
import pytest
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from skyrm_jax.chat import TEMPLATES

sys.path.append(str(Path(__file__).parents[1] / "tools"))  # scripts, not a package
sys.path.append(str(Path(__file__).parent / "data"))  # what stands in for Google Cloud Storage

# The machines that run the tests are shared and slow at times: no test fails for being late.
settings.register_profile("skyrm", deadline=None)
settings.load_profile("skyrm")


def pytest_configure(config: pytest.Config) -> None:
    """Many tests compile the same small programs, in processes of their own too: what one has compiled all others take."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = tempfile.TemporaryDirectory(prefix="skyrm-jax-programs-")
    config.add_cleanup(folder.cleanup)
    options = {
        "jax_compilation_cache_dir": folder.name,
        "jax_persistent_cache_min_compile_time_secs": 0.2,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in options.items():
        os.environ[name.upper()] = str(value)  # for xdist's workers and for what tests start
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, models and tokenizers: SKYRM_SHARED, or `shared` beside the repository."""
    folder = Path(os.environ.get("SKYRM_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"there is no {folder}; set SKYRM_SHARED to the folder of real data to run this test")
    return folder


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tokenizer with one token per byte, a ChatML template, a pad token and no BOS."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(special + alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    folder = tmp_path_factory.mktemp("byte_tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATES["chatml"],
    ).save_pretrained(folder)
    return folder
