"""GPT-4's judgements of alpaca_eval as a world for `experiment_curation`: real pairs, whose labels are taken for the truth.

Pairs of short answers only, that two cores may see enough of them; a fifth is verified, for 2 % of so few would be no gold set.
No lure: labels are turned round at random. What people find objective is not known: a prompt is, with the paper's frequency.
"""

import hashlib
import random
from pathlib import Path

from alpaca_eval import by_prompt
from curation_world import Setting, texts

from skyrm_jax.chat import Chat
from skyrm_jax.comparison import Comparison
from skyrm_jax.curate.config import EmbedderConfig
from skyrm_jax.curate.training import RewardModel
from skyrm_jax.data.quarantine import Quarantine

TOKENS = 192
"""Of the longest conversation of a pair, at most."""
TEST_PROMPTS = 120
OBJECTIVE = 0.748
"""Share of objective pairs (paper, table 10)."""


class Judged:
    """See `curation_world.World`: the truth is what was judged."""

    def __init__(self, pairs: list[Comparison]) -> None:
        self._better = {(prompt, *sorted((right, wrong))): right for prompt, right, wrong in map(texts, pairs)}

    def prefers_first(self, prompt: str, one: str, two: str) -> bool:
        return self._better[prompt, *sorted((one, two))] == one

    def is_lured(self, right: str, wrong: str) -> bool:
        return False

    def objectivity(self, prompt: str) -> str:
        return "Objective" if random.Random(f"kind {prompt}").random() < OBJECTIVE else "Subjective"

    def category(self, prompt: str) -> str:
        return "instructions"


def setting(judgements: Path, base: str, pairs: int) -> Setting:
    """The setting of at most so many pairs of the prompts that are not held out; all seeds have the same.

    Args:
        judgements: a folder of *__annotations.json, see `alpaca_eval`.
        base: the run folder of the language model that the reward models start from.
    """
    chat = Chat.load(Path(base) / "tokenizer")

    def is_short(pair: Comparison) -> bool:
        return max(map(len, chat.encode([pair.conversation(k) for k in range(2)]))) <= TOKENS

    judged = by_prompt(judgements, Quarantine()).values()
    groups = [short for group in judged if (short := list(filter(is_short, group)))]
    groups.sort(key=lambda group: hashlib.sha256(texts(group[0])[0].encode()).digest())
    test = [pair for group in groups[:TEST_PROMPTS] for pair in group]
    rest = [pair for group in groups[TEST_PROMPTS:] for pair in group]
    return Setting(
        Judged([*test, *rest]),
        lambda seed: rest[:pairs],
        test,
        0.0,
        RewardModel(
            "configs/curation_alpaca_eval.yaml", {"model.base": base, "run.epochs": 3}, checkpoints=2, dtype="float32"
        ),
        None,
        EmbedderConfig(dtype="float32", max_tokens=TOKENS),
        steps=40,
        human_share=0.2,
        first=0.25,
        later=0.25,
    )
