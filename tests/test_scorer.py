"""The scorer: rewards in order, whatever the packing; truncation counted; nothing untrained."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from skyrm_jax import checkpoint
from skyrm_jax.comparison import Comparison, Message
from skyrm_jax.convert.streamed import write_checkpoint
from skyrm_jax.convert.weights import MemoryWeights
from skyrm_jax.data import bpe
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.parameters import map_table
from skyrm_jax.scorer import Scorer

WORDS = ["red", "green", "blue", "black", "white"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights large enough to tell texts apart."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = bpe.train([" ".join(WORDS) * 3], vocabulary=300)
    bpe.save(tokenizer, folder / "tokenizer")
    architecture = Architecture(
        "qwen3", len(tokenizer), 32, 48, 2, 4, 2, 16, True, 1e-6, Rope(), 512, tokenizer.pad_token_id
    )
    rng = np.random.default_rng(0)
    params = map_table(architecture, lambda _, spec: rng.normal(0, 0.2, spec.shape).astype(np.float32))
    write_checkpoint(folder / "checkpoint", MemoryWeights.of(architecture, params), folder / "tokenizer", {})
    return folder / "checkpoint"


def comparisons(count: int, seed: int = 0) -> list[Comparison]:
    rng = np.random.default_rng(seed)

    def text(n: int) -> str:
        return " ".join(rng.choice(WORDS, n))

    return [
        Comparison.of(text(5), [text(int(n)) for n in rng.integers(1, 9, int(rng.integers(1, 6)))])
        for _ in range(count)
    ]


def load(model: Path, **options: Any) -> Scorer:
    return Scorer.load(str(model), **{"dtype": "float32", "max_tokens": 128, **options})


def test_order_row_length_and_company_do_not_matter(model: Path) -> None:
    made = comparisons(25)
    first = load(model).score(made)
    assert [len(r) for r in first] == [len(c.responses) for c in made]
    assert np.std(np.concatenate(first)) > 0.05
    backwards = load(model, row_tokens=128).score(made[::-1])[::-1]
    alone = [load(model).score([c])[0] for c in made[:2]]
    for one, other in zip(first, backwards, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for one, other in zip(first, alone, strict=False):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_k_32_larger_than_a_row_is_cut_and_scored_the_same(model: Path) -> None:
    wide = [Comparison.of("blue " * 20, [f"{w} " * n for w in WORDS for n in range(9, 16)])]
    cut, whole = load(model, max_tokens=128, row_tokens=512), load(model, max_tokens=128, row_tokens=4096)
    np.testing.assert_allclose(cut.score(wide)[0], whole.score(wide)[0], atol=1e-5)
    assert whole.counts["tokens"] > 512


def test_equal_responses_tie_exactly(model: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        (rewards,) = load(model, dtype=dtype).score([Comparison.of("red", ["blue", "green", "blue"])])
        assert rewards[0] == rewards[2] != rewards[1]


def test_truncation_cuts_the_prompt_for_all_and_is_counted(model: Path) -> None:
    scorer = load(model, max_tokens=40)
    long = Comparison.of("blue " * 60 + "red", ["green", "white"])
    rewards = scorer.score([long, Comparison.of("red", ["green"])])
    assert scorer.counts["truncated"] == 1 and scorer.manifest["truncated"] == 1
    assert np.isfinite(rewards[0]).all() and rewards[0][0] != rewards[0][1]


def test_an_untrained_head_is_refused(model: Path, tmp_path: Path) -> None:
    found = checkpoint.load_model(model)
    params = {**found.params, "score": found.params["score"] * 0}
    write_checkpoint(tmp_path / "fresh", MemoryWeights.of(found.architecture, params), found.tokenizer, {})
    with pytest.raises(UserError, match="reward head is zero"):
        load(tmp_path / "fresh")


USER, ANSWER = Message("user", "red"), Message("assistant", "blue")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Comparison((), ((ANSWER,),)), "prompt: has no user turn"),
        (Comparison((USER, ANSWER), ((ANSWER,),)), "prompt: ends in an assistant turn"),
        (Comparison((USER,), ((USER,),)), "responses: does not end in an assistant turn"),
        (Comparison((USER,), ((),)), "responses: does not end in an assistant turn"),
        (Comparison((USER,), ()), "responses: is empty"),
        (Comparison((USER,), "bc"), "responses: is not a list"),  # type: ignore[arg-type]
        (Comparison((USER,), ("bc",)), r"responses\[0\]: is not a tuple of messages"),  # type: ignore[arg-type]
        (Comparison([USER], ((ANSWER,),)), "prompt: is not a tuple of messages"),  # type: ignore[arg-type]
        (Comparison("red", ((ANSWER,),)), "prompt: is not a tuple of messages"),  # type: ignore[arg-type]
        (Comparison((USER,), (({"role": "assistant"},),)), r"responses\[0\]: is not a tuple of messages"),  # type: ignore[arg-type]
        (Comparison((USER,), ((Message("judge", "x"), ANSWER),)), r"responses\[0\].role: is not known"),
        ("red", "record: is not a Comparison"),
        ({"prompt": "red", "responses": ["blue"]}, "record: is not a Comparison"),
    ],
)
def test_what_cannot_be_scored_is_refused_and_named(model: Path, bad: Any, words: str) -> None:
    scorer = load(model)
    good = Comparison.of("red", ["blue"], id="good")
    with pytest.raises(RecordError, match=rf"{words} \(.*comparison 1\b"):
        scorer.score([good, bad])
    trees = scorer.trees([good, bad, good])
    assert isinstance(trees[1], RecordError)
    assert [len(tree.leaf) for tree in (trees[0], trees[2]) if not isinstance(tree, RecordError)] == [1, 1]


def test_one_comparison_instead_of_a_list_is_refused(model: Path) -> None:
    with pytest.raises(UserError, match="takes a list of comparisons, not one Comparison"):
        load(model).score(Comparison.of("red", ["blue"]))  # type: ignore[arg-type]


def test_the_number_of_a_refused_comparison_counts_over_windows(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyrm_jax.tree_scorer.WINDOW", 2)
    bad = Comparison((), ((ANSWER,),), id="that one")
    with pytest.raises(RecordError, match=r"comparison 3, 'that one'"):
        load(model).score([*comparisons(3), bad])


def test_more_tokens_than_embeddings_are_refused(model: Path, tmp_path: Path) -> None:
    found = checkpoint.load_model(model)
    architecture = replace(found.architecture, vocab_size=found.architecture.vocab_size - 1)
    params = map_table(architecture, lambda _, spec: np.ones(spec.shape, np.float32))
    write_checkpoint(tmp_path / "small", MemoryWeights.of(architecture, params), found.tokenizer, {})
    size = architecture.vocab_size
    with pytest.raises(UserError, match=rf"has {size + 1} tokens, but the model's vocabulary is {size}"):
        load(tmp_path / "small")


def test_what_goes_on_is_packed_as_if_it_had_not_stopped(model: Path) -> None:
    whole, fresh, again = (load(model, max_tokens=4096) for _ in range(3))

    def window(words: int) -> list[Any]:
        return whole.trees([Comparison.of("red " * words, ["blue", "green"])] * 40)

    first, different = window(100), 0
    for words in range(60, 140, 4):
        for scorer in (whole, fresh, again):
            scorer._batches.clear()
        whole._plan(first)
        again.go_on(json.loads(json.dumps(whole.manifest["batches"])))
        shapes = [scorer._plan(window(words))[1][0].shape for scorer in (whole, fresh, again)]
        assert shapes[2] == shapes[0] and again.manifest["batches"] == whole.manifest["batches"]
        different += (
            shapes[1] != shapes[0]
        )  # the second window takes the first one's row length, and would not by itself
    assert different


def test_the_hash_is_of_the_weights_that_were_loaded(model: Path, tmp_path: Path) -> None:
    found = checkpoint.load_model(model)
    for name, factor in (("run", 1), ("other", 2)):
        params = {**found.params, "score": factor * found.params["score"]}
        write_checkpoint(tmp_path / name, MemoryWeights.of(found.architecture, params), found.tokenizer, {})
    loaded = checkpoint.load_model(tmp_path / "run")
    before, other = checkpoint.digest(loaded), checkpoint.load_model(tmp_path / "other")
    assert before != checkpoint.digest(other)
    step = int(other.weights.name)
    shutil.copytree(other.weights, tmp_path / "run" / "checkpoints" / str(step + 1))  # training goes on
    later = checkpoint.load_model(tmp_path / "run")
    assert checkpoint.digest(loaded) == before != checkpoint.digest(later) == checkpoint.digest(other)


def test_max_tokens_is_checked(model: Path) -> None:
    with pytest.raises(UserError, match="max_tokens must be at least 2: 0"):
        load(model, max_tokens=0)


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        Scorer.load(str(tmp_path / "nowhere"))


def test_the_manifest_tells_models_apart_that_differ_in_their_configuration_alone(model: Path, tmp_path: Path) -> None:
    found = checkpoint.load_model(model)
    manifest = json.loads(json.dumps(load(model).manifest))
    other = replace(found.architecture, rms_eps=1.0, rope=Rope(theta=5.0))
    write_checkpoint(tmp_path / "other", MemoryWeights.of(other, found.params), found.tokenizer, {})
    its = load(tmp_path / "other").manifest
    assert its.pop("architecture") == other.to_dict() != manifest["architecture"]
    assert {name for name in its if its[name] != manifest[name]} == {"checkpoint"}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(found.tokenizer)
    tokenizer.bos_token = tokenizer.decode([5])
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path / "bos")
    write_checkpoint(tmp_path / "begins", MemoryWeights.of(found.architecture, found.params), tmp_path / "bos", {})
    assert (manifest["bos_token_id"], load(tmp_path / "begins").manifest["bos_token_id"]) == (None, 5)
