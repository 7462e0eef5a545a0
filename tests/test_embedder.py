"""Vectors equal the last hidden states of transformers' own decoder, and do not depend on which response is preferred."""

from pathlib import Path

import numpy as np
import pytest
from small_decoder import save_embedding_model

from skyrm_jax.comparison import Comparison
from skyrm_jax.embedder import Embedder, unit
from skyrm_jax.errors import UserError

COMPARISONS = [
    Comparison.of("red green", ["blue", "black white red", "blue"], chosen=0),
    Comparison.of("white", ["green"]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    return save_embedding_model(tmp_path_factory.mktemp("embedding"))


def load(folder: Path) -> Embedder:
    return Embedder.load(str(folder), template="qwen3-embedding", dtype="float32", max_tokens=64)


def test_vectors_equal_transformers(folder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).float().eval(), AutoTokenizer.from_pretrained(folder)
    vectors = load(folder).score(COMPARISONS)
    for comparison, found in zip(COMPARISONS, vectors, strict=True):
        for k, vector in enumerate(found):
            text = "\n".join(message.content for message in comparison.conversation(k)) + "<|endoftext|>"
            ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
            assert ids[0, -1] == tokenizer.convert_tokens_to_ids("<|endoftext|>")
            with torch.no_grad():
                expected = model(ids).last_hidden_state[0, -1].numpy()
            np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=2e-5)


def test_one_vector_for_a_pair_whichever_is_preferred(folder: Path) -> None:
    embedder = load(folder)
    pair = Comparison.of("red", ["green blue", "white"], chosen=0)
    turned = Comparison.of("red", ["white", "green blue"], chosen=0)
    vectors = embedder.embed([pair, turned, Comparison.of("red", ["green blue", "black"])])
    assert vectors.shape == (3, embedder.dimensions)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert vectors[0] @ vectors[2] < 0.999
    assert embedder.embed([]).shape == (0, embedder.dimensions)


def test_a_pad_token_at_the_end_is_the_pooled_one(folder: Path) -> None:
    """The embedding form ends in the token that is also the pad token: what transformers' classifiers skip is read here."""
    ours = load(folder)
    assert ours.chat.pad_token_id is None
    assert ours.loaded.architecture.pad_token_id == ours.chat.tokenizer.convert_tokens_to_ids("<|endoftext|>")


def test_zero_vectors_stay_zero() -> None:
    assert not unit(np.zeros((2, 3), np.float32)).any()


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a checkpoint folder nor a Hub id"):
        Embedder.load(str(tmp_path / "nothing"))
