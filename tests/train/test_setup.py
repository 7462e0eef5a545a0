"""What a run starts from: the store it was told to make, and a base that is what the config says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from transformers import AutoTokenizer

from skyrm_jax.config import TrainConfig
from skyrm_jax.convert.streamed import write_checkpoint
from skyrm_jax.convert.weights import MemoryWeights
from skyrm_jax.data.store import Store
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.parameters import map_table
from skyrm_jax.prepare import prepare
from skyrm_jax.train import setup


def store_of(config: TrainConfig) -> Store:
    return setup.open_store(config, setup.start(config), Console(quiet=True))


def with_data(config: TrainConfig, **changed: Any) -> TrainConfig:
    return replace(config, data=replace(config.data, **changed))


def test_a_store_is_made_once_and_opened_again(config: TrainConfig) -> None:
    made = store_of(config)
    assert store_of(config).fingerprint == made.fingerprint
    free = with_data(config, rows=2, row_tokens=256, workers=1, prefetch=1)
    assert store_of(free).fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sources", ["/nonexistent.jsonl"]),
        ("form", "hh_rlhf"),
        ("held_out", 5),
        ("max_tokens", 60),
        ("over_long", "truncate_left"),
        ("empty", "keep"),
        ("max_bad_share", 0.5),
    ],
)
def test_a_store_made_otherwise_is_refused(config: TrainConfig, key: str, value: Any) -> None:
    store_of(config)
    words = rf"run/store was made with data\.{key} = .*, now it is .*: restore the value, choose another run\.out"
    with pytest.raises(UserError, match=words) as refused:
        store_of(with_data(config, **{key: value}))
    assert repr(getattr(config.data, key)) in str(refused.value) and repr(value) in str(refused.value)


def test_a_store_split_by_another_seed_is_refused(config: TrainConfig) -> None:
    store_of(config)
    with pytest.raises(UserError, match=r"was made with run\.seed = 0, now it is 7"):
        store_of(replace(config, run=replace(config.run, seed=7)))


def test_sources_may_move_and_go_once_the_store_is_made(config: TrainConfig, material: Path, tmp_path: Path) -> None:
    here = with_data(config, sources=["data.jsonl"], root=str(material))
    made = store_of(here).fingerprint
    gone = with_data(here, root=str(tmp_path / "moved"))
    assert store_of(gone).fingerprint == made
    with pytest.raises(UserError, match=r"data\.sources = \['data.jsonl'\], now it is \['data.jsonl', 'more.jsonl'\]"):
        store_of(with_data(gone, sources=["data.jsonl", "more.jsonl"]))


def test_a_named_store_is_held_to_sources_only_if_they_are_given(config: TrainConfig, tmp_path: Path) -> None:
    named = with_data(config, store=str(tmp_path / "named"))
    prepare(replace(setup.prepare_options(named, setup.start(named)), dedup=False, held_out=7), Console(quiet=True))
    with pytest.raises(
        UserError, match=r"named was made with data\.held_out = 7, now it is 10: .* without data\.sources"
    ):
        store_of(named)
    with pytest.raises(UserError, match="named was made with dedup = False, now it is True"):
        store_of(with_data(named, held_out=7))
    assert len(store_of(with_data(named, sources=[])).index.held_out) >= 7


@pytest.fixture
def base(config: TrainConfig, material: Path, tmp_path: Path) -> Path:
    """A checkpoint of the architecture of `config`."""
    size = len(AutoTokenizer.from_pretrained(material / "tokenizer"))
    architecture = Architecture.from_hf(setup.hf_config(config.model.architecture) | {"vocab_size": size})
    params = map_table(architecture, lambda _, spec: np.zeros(spec.shape, np.float32))
    write_checkpoint(tmp_path / "base", MemoryWeights.of(architecture, params), material / "tokenizer", {})
    return tmp_path / "base"


def start(config: TrainConfig, base: Path | None, **changed: Any) -> setup.Start:
    given = setup.hf_config(config.model.architecture) | changed
    model = replace(config.model, base=None if base is None else str(base), architecture=given)
    return setup.start(replace(config, model=model))


def test_a_base_fills_in_the_vocabulary_and_takes_the_pad_token(config: TrainConfig, base: Path) -> None:
    begin = start(config, base, pad_token_id=1)
    assert begin.architecture.vocab_size == len(begin.chat.tokenizer)
    assert begin.architecture.pad_token_id == begin.chat.pad_token_id == 1


def test_a_base_of_another_architecture_is_refused(config: TrainConfig, base: Path) -> None:
    words = r"model\.base .* has layers 2, but model\.architecture says 3: correct one"
    with pytest.raises(UserError, match=words):
        start(config, base, num_hidden_layers=3)
    with pytest.raises(UserError, match=r"has vocab_size \d+, but model\.architecture says 9999"):
        start(config, base, vocab_size=9999)


def test_an_architecture_that_is_not_ours_is_laid_to_its_key(config: TrainConfig, base: Path, tmp_path: Path) -> None:
    for begin in (None, base):
        with pytest.raises(
            UserError, match=r"^model\.architecture: model_type 'gemma' is not implemented: use a model"
        ):
            start(config, begin, model_type="gemma")
    file = tmp_path / "other.json"
    file.write_text('{"model_type": "gemma"}')
    with pytest.raises(UserError, match=r"^model\.architecture \S+/other\.json: model_type 'gemma' is not"):
        setup.start(replace(config, model=replace(config.model, architecture=str(file))))


def test_more_tokens_than_embeddings_are_refused(config: TrainConfig) -> None:
    with pytest.raises(UserError, match=r"tokens, but the model's vocabulary is 100; .* \(data.tokenizer\)"):
        start(config, None, vocab_size=100, pad_token_id=0)
