"""Checks the eight published models against what this project believes about them. Needs the network, or a folder.

    python tools/verify_published.py [--models NAME ...] [--folder DIR] [--no-rewards] [--json FILE]

Without --folder the models are fetched from the Hub, 54 GB for all eight; with it, DIR/NAME holds each model, as
`hf download` made it. For every model: the facts of its config beside those of configs/, parameters and tensors as
counted in the files, what `skyrm doctor` finds, what the chat template writes, and, for the two models that have them,
the rewards of the example in the published README, which loads the model unless --no-rewards is given. Prints what
differs, and leaves with status 1 if anything does.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skyrm_jax.chat import Chat, pooled_index
from skyrm_jax.comparison import Comparison
from skyrm_jax.config import parse_train_config
from skyrm_jax.convert.hf import HfWeights, resolve
from skyrm_jax.doctor.against import Pair
from skyrm_jax.doctor.checks import admit, examine, leading, thinking
from skyrm_jax.errors import UserError, run_command
from skyrm_jax.models.architecture import COMPUTED, Architecture
from skyrm_jax.train.setup import hf_config

CONFIGS = Path(__file__).parents[1] / "configs"

MODELS = {
    "Skywork-Reward-V2-Qwen3-0.6B": "qwen3_0.6b",
    "Skywork-Reward-V2-Qwen3-1.7B": "qwen3_1.7b",
    "Skywork-Reward-V2-Qwen3-4B": "qwen3_4b",
    "Skywork-Reward-V2-Qwen3-8B": "qwen3_8b",
    "Skywork-Reward-V2-Llama-3.2-1B": "llama3.2_1b",
    "Skywork-Reward-V2-Llama-3.2-3B": "llama3.2_3b",
    "Skywork-Reward-V2-Llama-3.1-8B": "llama3.1_8b",
    "Skywork-Reward-V2-Llama-3.1-8B-40M": "llama3.1_8b_40m",
}
"""Name on the Hub, under Skywork/ -> its config."""


@dataclass(frozen=True)
class Believed:
    """What a family's own template writes around a response.

    Attributes:
        scored: text of the token whose hidden state gives the reward.
        think: what stands between think marks in the scored turn: "none", or "an empty one".
        bos: how often the template writes BOS.
    """

    scored: str
    think: str
    bos: int


TEMPLATES = {"qwen3": Believed("\n", "an empty one", 0), "llama": Believed("<|eot_id|>", "none", 1)}
"""By model_type. No template writes the pad token: pooling skips it."""

REWARDS = {
    "Skywork-Reward-V2-Llama-3.1-8B": (23.0, 3.59375),
    "Skywork-Reward-V2-Qwen3-0.6B": (7.875, 0.9453),
}
"""Of the two responses below, as published, by transformers in bfloat16."""

_BEGINNING = (
    "1. Jane starts with 12 apples and gives 4 to Mark. 12 - 4 = 8. Jane now has 8 apples.\n"
    "2. Jane buys 1 more apple. 8 + 1 = 9. Jane now has 9 apples.\n"
    "3. Jane splits the 9 apples equally among "
)
EXAMPLE = Comparison.of(
    "Jane has 12 apples. She gives 4 apples to her friend Mark, then buys 1 more apple, and finally splits all her "
    "apples equally among herself and her 2 siblings. How many apples does each person get?",
    [
        f"{_BEGINNING}herself and her 2 siblings (3 people in total). 9 ÷ 3 = 3 apples each. Each person gets 3 apples.",
        f"{_BEGINNING}her 2 siblings (2 people in total). 9 ÷ 2 = 4.5 apples each. Each person gets 4 apples.",
    ],
)


@dataclass(frozen=True)
class Row:
    """One fact of one model: what is believed and what is there."""

    model: str
    fact: str
    believed: str
    found: str
    same: bool


def believed(config: str) -> Architecture:
    """The architecture that a config of this project describes."""
    return Architecture.from_hf(
        hf_config(parse_train_config(["--config", str(CONFIGS / f"{config}.yaml")]).model.architecture)
    )


def verify(model: str, source: str, with_rewards: bool) -> Iterator[Row]:
    """Every fact of one model."""
    expected = believed(MODELS[model])
    try:
        weights = HfWeights(resolve(source))
    except UserError as error:
        yield Row(model, "can be read", "yes", str(error), False)
        return
    ours, theirs = expected.to_dict(), weights.architecture.to_dict()
    for name in (*COMPUTED, "max_positions", "pad_token_id"):
        yield Row(model, name, str(ours[name]), str(theirs[name]), ours[name] == theirs[name])
    tensors = weights.shapes
    parameters = sum(map(math.prod, tensors.values()))
    count = expected.parameter_count()
    yield Row(model, "parameters", f"{count:,}", f"{parameters:,}", count == parameters)
    yield Row(
        model, "tensors", str(expected.tensor_count()), str(len(tensors)), expected.tensor_count() == len(tensors)
    )
    yield Row(model, "head", "trained classifier", "present" if weights.has_head else "absent", weights.has_head)
    patient = admit(source)
    for finding in examine(patient):
        yield Row(model, finding.name, "well", f"{finding.status}: {finding.value}", finding.status != "ill")
    if patient.chat is None:
        return
    try:
        yield from template(model, TEMPLATES[expected.model_type], patient.chat)
        if with_rewards and model in REWARDS:
            yield from rewards(model, source)
    except UserError as error:
        yield Row(model, "the example can be scored", "yes", str(error), False)


def template(model: str, expected: Believed, chat: Chat) -> Iterator[Row]:
    """What the chat template writes around the first response of the example."""
    conversation = EXAMPLE.conversation(0)
    (ids,) = chat.encode([conversation])
    scored = chat.tokenizer.decode([ids[pooled_index(np.asarray(ids), chat.pad_token_id)]])
    yield Row(model, "template: scored token", repr(expected.scored), repr(scored), expected.scored == scored)
    think = thinking(chat).value
    yield Row(model, "template: think block", expected.think, think, think.startswith(expected.think))
    rendered = chat.tokenizer(chat.render(conversation), add_special_tokens=False)["input_ids"]
    bos = leading(rendered, chat.tokenizer.bos_token_id)
    yield Row(model, "template: BOS tokens", str(expected.bos), str(bos), expected.bos == bos)
    pads = sum(token == chat.pad_token_id for token in ids)
    yield Row(model, "template: pad tokens", "0", str(pads), pads == 0)


def rewards(model: str, source: str) -> Iterator[Row]:
    """The published example, in bfloat16; honest backends differ by two steps or 0.15."""
    from skyrm_jax.scorer import Scorer

    (values,) = Scorer.load(source, dtype="bfloat16", max_tokens=1024).score([EXAMPLE])
    for number, (published, value) in enumerate(zip(REWARDS[model], values.tolist(), strict=True), 1):
        pair = Pair("bfloat16", "", "", value, published)
        yield Row(model, f"reward of response {number}", str(published), f"{value:.4f}", pair.is_well)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--folder", type=Path, help="where the models are, each in a folder of its name")
    parser.add_argument(
        "--no-rewards", action="store_true", help="do not load the models to score the README's example"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    rows: list[Row] = []
    for model in args.models:
        source = str(args.folder / model) if args.folder else f"Skywork/{model}"
        rows += verify(model, source, not args.no_rewards)
    show(Console(), rows)
    skipped = [model for model in args.models if model in REWARDS] if args.no_rewards else []
    if skipped:
        print(f"skipped by --no-rewards: the published rewards of {', '.join(skipped)}")
    if args.json:
        record: list[dict[str, Any]] = [asdict(row) for row in rows]
        args.json.write_text(json.dumps(record, indent=2) + "\n")
    if not all(row.same for row in rows):
        sys.exit(1)


def show(console: Console, rows: list[Row]) -> None:
    """What differs, and how much does not."""
    different = [row for row in rows if not row.same]
    if different:
        table = Table("model", "fact", "believed", "found")
        for row in different:
            table.add_row(*map(Text, (row.model, row.fact, row.believed, row.found)))
        console.print(table)
    console.print(f"{len(rows) - len(different)} facts as believed, {len(different)} not", highlight=False)


if __name__ == "__main__":
    sys.exit(run_command(main))
