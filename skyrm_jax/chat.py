"""Chat templates -> token ids -> trees.

Every conversation is rendered whole, and its ids are those of the whole text; the shared prefix of a comparison is the
longest common prefix of the ids, never a separately tokenised prompt, because BPE may merge across the boundary. Text is
cut for tokenising only where nothing can merge: before a special token.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Int32

from skyrm_jax.comparison import Comparison, Message
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.rendering import renderer

DATE = "26 Jul 2024"
"""What templates that print the date (Llama 3.2) are told, so that a reward does not change overnight."""

TEMPLATES = {
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
        "{% endfor %}"
    ),
    "plain": (
        "{% for message in messages %}"
        "{{ message.role | capitalize + ': ' + message.content + ('' if loop.last else '\n\n') }}"
        "{% endfor %}{{ eos_token }}"
    ),
    "qwen3-embedding": (
        "{% for message in messages %}"
        "{{ message.content + ('' if loop.last else '\n') }}"
        "{% endfor %}{{ '<|endoftext|>' }}"
    ),
}
"""Built-in, date-free templates: for tokenizers that have none, and the text form of Qwen3-Embedding models."""

Policy = Literal["drop", "truncate_left", "truncate_right"]
"""What happens to a conversation longer than `max_tokens`: see `fit`."""


class OverLong(RecordError):
    """A conversation is longer than `max_tokens`, and the policy does not, or cannot, shorten it."""

    def __init__(self, longest: int, max_tokens: int) -> None:
        super().__init__(
            "responses",
            "over-long",
            "raise max_tokens, or choose another policy for over-long conversations",
            f"{longest} tokens, at most {max_tokens}",
        )


@dataclass(frozen=True, eq=False)
class Tree:
    """The K conversations of a comparison laid out depth first, the shared prefix once.

    Token q attends to token k exactly when k <= q < end[k]: token i's ancestors are {k: k <= i < end[k]}.

    Attributes:
        tokens: ids.
        end: one past the subtree of each token, relative to the tree.
        positions: index of each token in its own conversation.
        reward_index: token whose hidden state gives each leaf's reward; it may lie in the shared prefix.
        leaf: for each response its leaf; responses of equal token sequences have the same one.
        conversation_tokens: sum of the lengths of the K conversations, unshared.
        truncated: tokens cut off the longest conversation.
    """

    tokens: Int32[np.ndarray, "n"]
    end: Int32[np.ndarray, "n"]
    positions: Int32[np.ndarray, "n"]
    reward_index: Int32[np.ndarray, "leaves"]
    leaf: Int32[np.ndarray, "K"]
    conversation_tokens: int
    truncated: int = 0

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation."""
        return int(self.positions.max()) + 1


def build_tree(sequences: Sequence[Sequence[int]], pad_id: int | None, truncated: int = 0) -> Tree:
    """The tree of K token sequences: their longest common prefix, then the rest of each different one.

    Leaves are numbered by first appearance. Equal sequences are one leaf; a sequence that is the prefix
    itself is a leaf inside it. `reward_index` follows `pooled_index`. Raises ValueError if there is no
    sequence or an empty one.
    """
    if not sequences or not all(len(s) for s in sequences):
        raise ValueError("a tree needs at least one sequence, each of at least one token")
    leaves: dict[bytes, int] = {}
    different: list[np.ndarray] = []
    leaf = []
    for sequence in sequences:
        array = np.asarray(sequence, np.int32)
        number = leaves.setdefault(array.tobytes(), len(leaves))
        if number == len(different):
            different.append(array)
        leaf.append(number)
    shared = common_prefix(different)
    sizes = [len(s) - shared for s in different]
    starts = list(accumulate(sizes, initial=shared))
    pooled = [pooled_index(s, pad_id) for s in different]
    return Tree(
        tokens=np.concatenate([different[0][:shared]] + [s[shared:] for s in different]),
        end=np.repeat(np.array([starts[-1], *starts[1:]], np.int32), [shared, *sizes]),
        positions=np.concatenate(
            [np.arange(shared, dtype=np.int32)] + [np.arange(shared, len(s), dtype=np.int32) for s in different]
        ),
        reward_index=np.array(
            [p if p < shared else start + p - shared for p, start in zip(pooled, starts, strict=False)], np.int32
        ),
        leaf=np.array(leaf, np.int32),
        conversation_tokens=sum(map(len, sequences)),
        truncated=truncated,
    )


def pooled_index(sequence: Int32[np.ndarray, "n"], pad_id: int | None) -> int:
    """The token whose hidden state a Hugging Face sequence classifier reads, for one unpadded sequence.

    The right-most token whose id is not `pad_id`, 0 if all are; the last without a `pad_id`. Source:
    transformers' GenericForSequenceClassification.forward.
    """
    if pad_id is None or sequence[-1] != pad_id:
        return len(sequence) - 1
    live = np.flatnonzero(sequence != pad_id)
    return int(live[-1]) if len(live) else 0


def common_prefix(sequences: Sequence[Int32[np.ndarray, "_"]]) -> int:
    """Length of the longest common prefix."""
    first, shared = sequences[0], min(map(len, sequences))
    for other in sequences[1:]:
        unequal = first[:shared] != other[:shared]
        if unequal.any():
            shared = int(unequal.argmax())
    return shared


def fit(sequences: list[list[int]], max_tokens: int | None, policy: Policy, keep: int) -> tuple[list[list[int]], int]:
    """The sequences of one comparison cut to `max_tokens`, and the tokens cut off the longest.

    `truncate_left` cuts the same tokens, of the shared prefix, from all sequences, but not the first `keep`
    (BOS); `truncate_right` cuts the end of each sequence alone.

    Raises:
        OverLong: a sequence is too long and the policy is `drop`, or the shared prefix is too short to cut.
    """
    longest = max(map(len, sequences))
    if max_tokens is None or longest <= max_tokens:
        return sequences, 0
    excess = longest - max_tokens
    if policy == "truncate_right":
        return [s[:max_tokens] for s in sequences], excess
    if policy == "drop" or excess + keep > common_prefix([np.asarray(s, np.int32) for s in sequences]):
        raise OverLong(longest, max_tokens)
    return [s[:keep] + s[keep + excess :] for s in sequences], excess


@dataclass(frozen=True, eq=False)
class Chat:
    """A tokenizer with a chat template and the rules by which rewards are read. Make one with `Chat.load`.

    Attributes:
        tokenizer: a fast Hugging Face tokenizer.
        template: the Jinja source in use.
        pad_token_id: id that HF's pooling rule skips; None if the model has none.
        source: what `load` was given.
        bos: the id that begins every conversation exactly once; None for models without one.
    """

    tokenizer: Any
    template: str
    pad_token_id: int | None
    source: str
    bos: int | None = None

    @classmethod
    def load(
        cls, tokenizer: str | os.PathLike[str], pad_token_id: int | None = None, template: str | None = None
    ) -> Self:
        """The chat of a tokenizer folder or Hub id.

        `pad_token_id` is the model's, not the tokenizer's: without one, the reward is read at the last token.
        `template` is a file or one of TEMPLATES; by default the tokenizer's own.

        Raises:
            UserError: no such tokenizer; it has no template and none is given; the template does not render.
        """
        loaded = _load_tokenizer(str(tokenizer))
        source = _template(loaded, str(tokenizer), template)
        chat = cls(loaded, source, pad_token_id, str(tokenizer))
        return cls(loaded, source, pad_token_id, str(tokenizer), chat._find_bos())

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation as the template writes it, BOS included if it writes one; no generation prompt.

        Raises RecordError if the template refuses the conversation.
        """
        text = self._render([messages])[0]
        if isinstance(text, RecordError):
            raise text
        return text

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """The ids of whole conversations, on all cores. Raises RecordError as `render` does, or for a second
        BOS."""
        encoded = self._encode(conversations)
        for ids in encoded:
            if isinstance(ids, RecordError):
                raise ids
        return encoded  # type: ignore[return-value]

    def tree(self, comparison: Comparison, max_tokens: int | None = None, policy: Policy = "drop") -> Tree:
        """The tree of one comparison. Raises RecordError, and OverLong as `fit` does."""
        tree = self.trees([comparison], max_tokens, policy)[0]
        if isinstance(tree, RecordError):
            raise tree
        return tree

    def trees(
        self, comparisons: Sequence[Comparison], max_tokens: int | None = None, policy: Policy = "drop"
    ) -> list[Tree | RecordError]:
        """For each comparison its tree, or the error that keeps it from having one."""
        conversations = [c.conversation(k) for c in comparisons for k in range(len(c.responses))]
        encoded = iter(self._encode(conversations))
        trees: list[Tree | RecordError] = []
        for comparison in comparisons:
            ids = [next(encoded) for _ in comparison.responses]
            try:
                sequences = []
                for sequence in ids:
                    if isinstance(sequence, RecordError):
                        raise sequence
                    sequences.append(sequence)
                sequences, cut = fit(sequences, max_tokens, policy, keep=int(self.bos is not None))
                trees.append(build_tree(sequences, self.pad_token_id, cut))
            except RecordError as error:
                trees.append(error)
        return trees

    @cached_property
    def template_hash(self) -> str:
        """SHA-256 of the template, in hex."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    @cached_property
    def tokenizer_hash(self) -> str:
        """SHA-256 of tokenizer.json, in hex: the same for every copy of the tokenizer."""
        from transformers.utils import cached_file

        file = cached_file(self.source, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
        data = Path(file).read_bytes() if file else self.tokenizer.backend_tokenizer.to_str().encode()
        return hashlib.sha256(data).hexdigest()

    def _render(self, conversations: Sequence[Sequence[Message]]) -> list[str | RecordError]:
        variables = self.tokenizer.special_tokens_map | {"date_string": DATE, "add_generation_prompt": False}
        plain = [[{"role": m.role, "content": m.content} for m in messages] for messages in conversations]
        try:
            render = renderer(self.template)
            return [render(messages=messages, tools=None, documents=None, **variables) for messages in plain]
        except Exception as error:  # templates raise what they like
            if len(plain) > 1:
                return [self._render([messages])[0] for messages in conversations]
            return [
                RecordError(
                    "record",
                    "is refused by the chat template",
                    "mend the conversation or choose another template",
                    f"{type(error).__name__}: {error}",
                )
            ]

    def _encode(self, conversations: Sequence[Sequence[Message]]) -> list[list[int] | RecordError]:
        texts = self._render(conversations)
        parts = [self._parts(text) for text in texts if isinstance(text, str)]
        # The K conversations of a comparison share their prompt's part, which is tokenised once.
        different = list(dict.fromkeys(part for both in parts for part in both))
        # The template writes BOS as text; special tokens are added by hand only where it does not.
        encodings = self.tokenizer.backend_tokenizer.encode_batch_fast(different, add_special_tokens=False)
        ids = {part: encoding.ids for part, encoding in zip(different, encodings, strict=True)}
        encoded = iter(parts)
        return [
            self._with_bos(list(chain.from_iterable(ids[part] for part in next(encoded))))
            if isinstance(text, str)
            else text
            for text in texts
        ]

    def _parts(self, text: str) -> tuple[str, ...]:
        """A rendered conversation up to its last answer, and the rest: together they have the ids of the whole."""
        if self._answer_token is None:
            return (text,)
        prompt, token, answer = text.rpartition(self._answer_token)
        return (prompt, token + answer)

    @cached_property
    def _answer_token(self) -> str | None:
        """The last special token that the template writes before an answer, if any text may be cut before it.

        Special tokens are found in the text before all else, leftmost first, and what is between them is normalised and
        split on its own; so a cut before one changes nothing, unless another added token begins left of it and overlaps it.
        """
        backend = self.tokenizer.backend_tokenizer
        answer = "\0answer\0"
        text = self._render([(Message("user", "a"), Message("assistant", answer))])[0]
        if isinstance(text, RecordError) or answer not in text or backend.encode_special_tokens:
            return None
        added = backend.get_added_tokens_decoder().values()
        before = text[: text.index(answer)]
        for at, token in sorted(((before.rfind(t.content), t) for t in added if t.special), key=lambda p: -p[0]):
            plain = not (token.normalized or token.single_word or token.lstrip or token.content[0].isspace())
            if at >= 0 and plain and not any(_overlaps(other.content, token.content) for other in added):
                return str(token.content)
        return None

    def _with_bos(self, ids: list[int]) -> list[int] | RecordError:
        if self.bos is None:
            return ids
        if not ids or ids[0] != self.bos:
            ids = [self.bos, *ids]
        if ids.count(self.bos) == 1:
            return ids
        return RecordError(
            "record",
            "holds the tokenizer's BOS token in its text",
            "remove it: every conversation begins with exactly one",
            repr(self.tokenizer.convert_ids_to_tokens(self.bos)),
        )

    def _find_bos(self) -> int | None:
        """The BOS id if the template writes it, once, or the tokenizer adds it; None otherwise.

        A "BOS" that the template writes several times, as ChatML does where it is named <|im_start|>, marks
        turns.
        """
        bos = self.tokenizer.bos_token_id
        probe = (Message("user", "a"), Message("assistant", "b"))
        text = self._render([probe])[0]
        if isinstance(text, RecordError):
            raise UserError(f"the chat template of {self.source} does not render a conversation: {text.detail}")
        written = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids.count(bos)
        added = self.tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).ids[:1] == [bos]
        return bos if bos is not None and (written == 1 or (written == 0 and added)) else None


def _overlaps(left: str, right: str) -> bool:
    """Whether `left` can begin before `right` in a text and end inside or after it."""
    return any(left[i:].startswith(right) or right.startswith(left[i:]) for i in range(1, len(left)))


def _load_tokenizer(source: str) -> Any:
    """The fast tokenizer of a folder or Hub id, with neither truncation nor padding."""
    # Set before the first use: the Rust threads must not be switched off by a later fork of a loader process.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # It would say at every start that PyTorch is missing, which nothing here needs.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    remedy = "give a folder that holds tokenizer.json and tokenizer_config.json, or a Hub id"
    path = Path(source)
    if path.is_dir():
        if not (path / "tokenizer.json").is_file():
            raise UserError(f"tokenizer {source}: there is no tokenizer.json in that folder; {remedy}")
    elif path.is_absolute() or source.count("/") > 1 or source.startswith((".", "~")):
        raise UserError(f"tokenizer {source}: there is no such folder; {remedy}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        backend = tokenizer.backend_tokenizer
    except Exception as error:  # a broken file raises anything, a missing one OSError
        lines = str(error).strip().splitlines()
        raise UserError(f"tokenizer {source}: {lines[0] if lines else type(error).__name__}; {remedy}") from error
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
    return tokenizer


def _template(tokenizer: Any, source: str, template: str | None) -> str:
    """The Jinja source to use: built in, of a file, or the tokenizer's own."""
    remedy = f"set template to a Jinja file, or to a built-in one ({', '.join(TEMPLATES)})"
    if template in TEMPLATES:
        return TEMPLATES[template]
    if template is not None:
        try:
            return Path(template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"template {template}: {error}; {remedy}") from None
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:
        raise UserError(f"tokenizer {source} has no chat template; {remedy}") from None
