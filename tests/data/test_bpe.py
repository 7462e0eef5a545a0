"""The tokenizer trainer: reads any text, an ordinary Hugging Face folder."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from skyrm_jax.chat import Chat
from skyrm_jax.comparison import Message
from skyrm_jax.data import bpe
from skyrm_jax.data.synthetic import generate
from skyrm_jax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = bpe.train(bpe.texts_of(generate(300)), 500)
    return bpe.save(tokenizer, tmp_path_factory.mktemp("bpe") / "tokenizer")


def test_any_text_comes_back(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) <= 500
    for text in ("What is 2 plus 3?", "naïve 中文 🙂\n\ttab", "x = [1, 22, 333]", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_conversations_are_chatml_and_its_marks_are_single_tokens(folder: Path) -> None:
    chat = Chat.load(folder, 0)
    text = chat.render([Message("user", "a"), Message("assistant", "b")])
    assert text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    for mark in (bpe.PAD, bpe.START, bpe.STOP):
        assert len(chat.tokenizer.encode(mark)) == 1
    assert chat.tokenizer.pad_token == bpe.PAD


def test_the_same_texts_give_the_same_tokenizer() -> None:
    first, second = (bpe.train(bpe.texts_of(generate(100)), 400) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_bad_arguments() -> None:
    with pytest.raises(UserError, match="too small"):
        bpe.train(["a"], 100)
    with pytest.raises(UserError, match="no text"):
        bpe.train([], 400)
