"""The checks that need no second runtime: configuration, tokenizer, template and head of one checkpoint."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skyrm_jax.chat import Chat, common_prefix
from skyrm_jax.comparison import Comparison
from skyrm_jax.convert.hf import HfWeights, read_json, resolve
from skyrm_jax.convert.names import SCORE, hf_tensors
from skyrm_jax.convert.sources import open_model
from skyrm_jax.convert.weights import Weights
from skyrm_jax.doctor.dialects import Foreign, by_reader, describe
from skyrm_jax.doctor.findings import Finding, judge
from skyrm_jax.errors import RecordError, UserError

EXPORT = "import it, and write it again with `skyrm convert to-hf`, which writes both dialects"
UNSUPPORTED = "not supported here: this package implements the RoPE kinds default and llama3"
CONTRADICTION = "correct rope_theta, rope_scaling and rope_parameters in config.json: those that are there must agree"
SAMPLE = Comparison.of("Jane has 12 apples. She gives 4 to Tom. How many are left?", ["Jane has 8 apples left.", "16"])
CONTEXT = 6
"""Tokens shown before the scored one."""


@dataclass(frozen=True)
class Patient:
    """A checkpoint, opened but not loaded.

    Attributes:
        config: its config.json; for a checkpoint of ours the one that an export would have.
        meta: what is recorded beside our own checkpoints; empty for others.
        chat: None if it has no usable template; `chat_error` says why.
    """

    source: str
    folder: Path
    weights: Weights
    config: Mapping[str, Any]
    meta: Mapping[str, Any]
    tokenizer: Path
    chat: Chat | None
    chat_error: str


def admit(source: str) -> Patient:
    """Opens our checkpoint, a Hugging Face folder or a Hub id. Raises UserError if it cannot be opened."""
    model = open_model(source)
    weights = model.weights
    if isinstance(weights, HfWeights):
        folder, meta, config = weights.folder, {}, read_json(weights.folder / "config.json")
    else:
        folder, meta = Path(source), model.meta
        config = weights.architecture.to_hf(weights.dtype("embed").name)
    try:
        chat, error = Chat.load(model.tokenizer, weights.architecture.pad_token_id), ""
    except UserError as refused:
        chat, error = None, str(refused)
    return Patient(source, folder, weights, config, meta, model.tokenizer, chat, error)


def unopened(source: str, error: UserError) -> list[Finding]:
    """What can be said of a checkpoint that `admit` refused: why, and how its RoPE is read if it has a config.json."""
    found = [Finding("opening it", "ill", str(error), "mend what is named; nothing else can be examined before")]
    try:
        config = read_json(resolve(source) / "config.json")
    except UserError:
        return found
    return [*found, rope(config)]


def examine(patient: Patient, all_weights: bool = False) -> Iterator[Finding]:
    """Every finding; with `all_weights` each tensor is read, and NaN or infinities are found."""
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("labels", lambda: labels(patient)),
        ("RoPE", lambda: [rope(patient.config)]),
        ("reward head", lambda: [head(patient)]),
        ("pad token", lambda: [pad_token(patient)]),
    ]
    chat = patient.chat
    if chat is None:
        checks.append(("chat template", lambda: [Finding("chat template", "ill", "none", patient.chat_error)]))
    else:
        checks += [
            ("chat template", lambda: [template(patient, chat)]),
            ("vocabulary", lambda: [vocabulary(patient, chat)]),
            ("beginning of text", lambda: [beginning(chat)]),
            ("think block", lambda: [thinking(chat)]),
            ("scored token", lambda: [scored_token(chat)]),
        ]
    if all_weights:
        checks.append(("weights", lambda: [every_tensor(patient)]))
    for name, check in checks:
        try:
            yield from check()
        except (UserError, RecordError) as error:  # an illness found by the code that meets it
            yield Finding(name, "ill", str(error), "mend what is named")


def labels(patient: Patient) -> Iterator[Finding]:
    """One label, and no sigmoid over it."""
    config = patient.config
    names = config.get("architectures") or []
    kind = ", ".join(names) or "not said"
    is_classifier = any(name.endswith("ForSequenceClassification") for name in names)
    yield judge(
        "kind of model",
        is_classifier,
        kind,
        "this is no reward model: import it with `skyrm convert from-hf` and train it",
    )
    if is_classifier:
        problem = config.get("problem_type")
        yield judge(
            "problem type",
            problem == "regression",
            str(problem),
            'pipelines and vLLM put a sigmoid over the reward: set "problem_type": "regression" in config.json',
            "note",
        )


def rope(config: Mapping[str, Any]) -> Finding:
    """Whether this package and both generations of transformers see the same RoPE."""
    readers = by_reader(config)
    ours, readings = readers["skyrm_jax"], readers.values()
    if not isinstance(ours, str) and all(reading == ours for reading in readings):
        return Finding("RoPE", "well", f"{describe(ours)} for all three readers")
    value = "; ".join(f"{reader}: {describe(reading)}" for reader, reading in readers.items())
    if any(isinstance(reading, Foreign) for reading in readings):
        return Finding("RoPE", "ill", value, UNSUPPORTED)
    return Finding("RoPE", "ill", value, CONTRADICTION if isinstance(ours, str) else EXPORT)


def head(patient: Patient) -> Finding:
    """Dtype, shape and whether it was ever trained."""
    tensor = next(tensor for tensor in hf_tensors(patient.weights.architecture) if tensor.name == SCORE)
    value = patient.weights.read(tensor).astype(np.float32)
    dtype = patient.weights.dtype("score").name
    norm = float(np.linalg.norm(value))
    return judge(
        "reward head",
        norm > 0,
        f"{SCORE} {dtype} {list(tensor.shape)}, norm {norm:.4g}",
        "a zero head gives every response the reward 0: train the model",
    )


def template(patient: Patient, chat: Chat) -> Finding:
    """Its hash, whether it is the one recorded, and whether it reads the clock."""
    recorded = patient.meta.get("template_hash")
    reads_clock = re.search(r"strftime_now|date_string", chat.template) is not None
    value = chat.template_hash + (", reads the clock" if reads_clock else "")
    if recorded is not None and recorded != chat.template_hash:
        return Finding(
            "chat template",
            "ill",
            f"{value}, but {recorded} was recorded when the model was made",
            "the tokenizer's files were changed since: put the original ones back",
        )
    return judge(
        "chat template",
        not reads_clock,
        value,
        'pass date_string="26 Jul 2024" wherever the template is applied, as this package does',
        "note",
    )


def vocabulary(patient: Patient, chat: Chat) -> Finding:
    """The tokenizer must not know more tokens than the model."""
    size, known = patient.weights.architecture.vocab_size, len(chat.tokenizer)
    return judge(
        "vocabulary",
        known <= size,
        f"{known:,} tokens, {size:,} embeddings",
        "some tokens have no embedding: this is not the model's tokenizer",
    )


def beginning(chat: Chat) -> Finding:
    """How often BOS stands at the start of a conversation, as scored and as the template alone writes it."""
    bos = chat.tokenizer.bos_token_id
    if bos is None:
        return Finding("beginning of text", "well", "the tokenizer has no BOS")
    conversation = SAMPLE.conversation(0)
    rendered = chat.tokenizer(chat.render(conversation), add_special_tokens=False)["input_ids"]
    written, scored = leading(rendered, bos), leading(chat.encode([conversation])[0], bos)
    name = f"BOS {bos} ({chat.tokenizer.convert_ids_to_tokens(bos)})"
    if scored > 1:
        remedy = "the template writes it more than once: correct chat_template"
        return Finding("beginning of text", "ill", f"{name}, {scored} times", remedy)
    value = f"{name}, {'once' if scored else 'never'}"
    if written == scored:
        return Finding("beginning of text", "well", value)
    return Finding(
        "beginning of text",
        "note",
        f"{value}; the template itself does not write it",
        "elsewhere, tokenise rendered text with special tokens added, or rewards differ",
    )


def leading(ids: Sequence[int], token: int) -> int:
    """How many of the first ids are `token`."""
    return next((at for at, one in enumerate(ids) if one != token), len(ids))


def thinking(chat: Chat) -> Finding:
    """What the template puts into the scored turn between think marks."""
    block = re.search(r"<think>(.*?)</think>", chat.render(SAMPLE.conversation(0)), re.DOTALL)
    if block is None:
        return Finding("think block", "well", "none")
    kind = "an empty one" if not block[1].strip() else "one with text"
    return Finding("think block", "well", f"{kind} in the scored turn, part of what is scored")


def scored_token(chat: Chat) -> Finding:
    """Which token's hidden state gives the reward, in context; it must come after the response."""
    tree = chat.tree(SAMPLE)
    ids = chat.encode([SAMPLE.conversation(0), SAMPLE.conversation(1)])
    shared = common_prefix([np.asarray(sequence, np.int32) for sequence in ids])
    at = int(tree.positions[tree.reward_index[tree.leaf[0]]])
    shown = "".join(map(repr_token, chat.tokenizer.convert_ids_to_tokens(ids[0][max(0, at - CONTEXT) : at])))
    token = repr_token(chat.tokenizer.convert_ids_to_tokens(ids[0][at]))
    after = len(ids[0]) - 1 - at
    value = f"token {at} of {len(ids[0])}, id {ids[0][at]}: {shown}[{token}]" + (
        f" and {after} pad token{'s' if after > 1 else ''} after it" if after else ""
    )
    return judge(
        "scored token",
        at >= shared,
        value,
        "it comes before the response, so that all responses get one reward: the pad token is wrong",
    )


def repr_token(token: str | None) -> str:
    """A token as text, white space made visible."""
    text = "" if token is None else token
    return text.replace("Ġ", " ").replace("Ċ", "\\n").replace("▁", " ").replace("\n", "\\n")


def pad_token(patient: Patient) -> Finding:
    """Which id pooling skips, and whether text can hold it."""
    pad = patient.weights.architecture.pad_token_id
    if pad is None or patient.config.get("pad_token_id") is None:
        return Finding(
            "pad token",
            "ill",
            "none",
            'set "pad_token_id" in config.json to an id that no conversation holds: pooling depends on it',
        )
    if patient.chat is None:
        return Finding("pad token", "note", str(pad), "without a template nothing can be said about it")
    tokenizer = patient.chat.tokenizer
    if pad >= len(tokenizer):
        return Finding("pad token", "well", f"{pad}, which the tokenizer never gives")
    name = tokenizer.convert_ids_to_tokens(pad)
    if pad in patient.chat.encode([SAMPLE.conversation(0)])[0]:
        return Finding(
            "pad token",
            "note",
            f"{pad} ({name}), which the template itself writes",
            "the right-most other token is scored, here and in transformers; a program that reads the last token gives "
            "other rewards",
        )
    if pad not in tokenizer.all_special_ids and pad not in tokenizer.added_tokens_decoder:
        return Finding(
            "pad token",
            "ill",
            f"{pad} ({name!r}), an ordinary token",
            "a response that ends in it is scored elsewhere: choose a special token (--pad-token when importing)",
        )
    return Finding("pad token", "well", f"{pad} ({name}), in no text unless it is spelled out")


def every_tensor(patient: Patient) -> Finding:
    """Reads all weights; NaN and infinities raise, and are reported."""
    try:
        for tensor in hf_tensors(patient.weights.architecture):
            patient.weights.read(tensor)
    except UserError as error:
        return Finding("weights", "ill", str(error), "fetch or write the checkpoint again")
    return Finding("weights", "well", f"{patient.weights.architecture.parameter_count():,} numbers, all finite")
