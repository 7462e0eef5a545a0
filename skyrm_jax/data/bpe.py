"""Train a byte-level BPE tokenizer in Qwen3's manner, for runs where no tokenizer can be fetched.

The result is an ordinary Hugging Face tokenizer folder: byte-level BPE that reads any text without an unknown token, a
ChatML template and the special tokens below. Numbers of up to three digits stay whole (Qwen3 splits every digit): a model
that starts from nothing learns sums of small numbers faster so.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from skyrm_jax.chat import TEMPLATES
from skyrm_jax.comparison import Comparison
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import read_comparisons
from skyrm_jax.errors import UserError, run_command

PAD, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Qwen3's pattern but for \p{N}{1,3}, where Qwen3 has \p{N}
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MAX_LENGTH = 32768


def train(texts: Iterable[str], vocabulary: int = 4096) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocabulary` entries (fewer when the texts hold no more pairs that occur twice).

    Raises UserError if `vocabulary` has no room for the 256 bytes and the special tokens, or if there is no text.
    """
    if vocabulary < 256 + 3:
        raise UserError(f"vocabulary {vocabulary} is too small: 256 bytes and 3 special tokens need 259; ask for more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, START, STOP],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    count = 0

    def counted() -> Iterator[str]:
        nonlocal count
        for text in texts:
            count += 1
            yield text

    tokenizer.train_from_iterator(counted(), trainer)
    if not count:
        raise UserError("no text to train a tokenizer on: give it at least one comparison")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=STOP,
        additional_special_tokens=[START],
        chat_template=TEMPLATES["chatml"],
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def texts_of(comparisons: Iterable[Comparison]) -> Iterator[str]:
    """The text of every message of `comparisons`, with the role names as the template writes them."""
    for comparison in comparisons:
        for message in comparison.prompt:
            yield f"{message.role}\n"
            yield message.content
        for response in comparison.responses:
            for message in response:
                yield f"{message.role}\n"
                yield message.content


def save(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> Path:
    """Write `tokenizer` as a folder that transformers' AutoTokenizer reads; returns the folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    return Path(folder)


def main(argv: list[str] | None = None) -> None:
    """`python -m skyrm_jax.data.bpe FILE... --out DIR`: trains on the text of comparisons."""
    parser = argparse.ArgumentParser(prog="python -m skyrm_jax.data.bpe", description="Train a tokenizer.")
    parser.add_argument("files", nargs="+", type=Path, help="comparisons, as `skyrm prepare` reads them")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--vocabulary", type=int, default=4096, help="most entries (default 4096)")
    args = parser.parse_args(argv)
    comparisons = read_comparisons(args.files, "auto", False, Quarantine())
    tokenizer = train(texts_of(comparisons), args.vocabulary)
    print(f"a tokenizer of {len(tokenizer)} entries in {save(tokenizer, args.out)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
