"""Which pairs people verify first: those where their answer is surest and the reward model is most wrong."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from skyrm_jax.curate.attributes import CONTROVERSIALITIES, OBJECTIVITIES, Attributes
from skyrm_jax.curate.judge import Verdict
from skyrm_jax.curate.pair import Pair
from skyrm_jax.errors import UserError


@dataclass(frozen=True)
class HumanQueue:
    """What people are asked.

    Args:
        budget: pairs in a batch, at most.
        annotators: people who answer each of them; with fewer answers a pair goes on waiting.
        seed: of the order in which the two responses are shown.
        reveal: also show the label and what the models said, for a second look; people are blind to them otherwise.
    """

    budget: int = 500
    annotators: int = 1
    seed: int = 0
    reveal: bool = False

    def __post_init__(self) -> None:
        """Raises UserError naming the field."""
        for name in ("budget", "annotators"):
            if getattr(self, name) < 1:
                raise UserError(f"humans.{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Opinion:
    """What somebody else said of a pair.

    Attributes:
        who: a name for people to read.
        verdict: about the pair as it stands in the pool.
        why: in words; may be empty. They may speak of candidates 1 and 2.
        swapped: in those words candidate 1 is the rejected response.
    """

    who: str
    verdict: Verdict
    why: str = ""
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pair that people could verify.

    Attributes:
        attributes: None where no annotator gave valid ones.
        p: sigmoid(r_chosen - r_rejected) by the reward model; None before there is one.
        opinions: for a second look (`HumanQueue.reveal`); nobody sees them otherwise.
    """

    pair: Pair
    attributes: Attributes | None = None
    p: float | None = None
    opinions: tuple[Opinion, ...] = ()

    def __post_init__(self) -> None:
        if self.p is not None and not 0 <= self.p <= 1:
            raise ValueError(f"p = {self.p} of pair {self.pair.id} is not a probability")


def priority(waiting: Waiting) -> tuple[int, int, float, str]:
    """The smaller, the sooner people see a pair.

    In turn: objective before subjective; low controversiality before medium before high; small p first, that is those
    on which the reward model is most wrong; then `Pair.contents`, which no label and no order of files changes. Pairs
    without attributes come after all the others, and pairs without p after those that are like them.
    """
    p = 2.0 if waiting.p is None else waiting.p
    attributes = waiting.attributes
    if attributes is None:
        return len(OBJECTIVITIES), len(CONTROVERSIALITIES), p, waiting.pair.contents
    return (
        OBJECTIVITIES.index(attributes.preference_objectivity),
        CONTROVERSIALITIES.index(attributes.controversiality),
        p,
        waiting.pair.contents,
    )


def first(waiting: Iterable[Waiting], budget: int) -> list[Waiting]:
    """The `budget` pairs of highest priority, in its order; no more than these are held in memory."""
    return heapq.nsmallest(budget, waiting, key=priority)
