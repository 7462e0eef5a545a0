"""Which response of a pair language models prefer, each asked several times, with the order of candidates in balance.

A vote tells the order in which the candidates were shown, and its verdict is mapped back to the pair as it stands. Half
of the votes of one annotator on one pair see it swapped; where their number is odd, of every two pairs that follow each
other one has the odd vote swapped. So a judge that goes by the place alone is right in exactly half of its votes.

Source: section 3.2 of the paper.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa

from skyrm_jax.comparison import Message
from skyrm_jax.curate.annotators import Answer, Calls, Fence, Prompt, Request
from skyrm_jax.curate.annotators.reading import objects
from skyrm_jax.curate.attributes import Attributes
from skyrm_jax.curate.pair import Pair
from skyrm_jax.errors import UserError

Verdict = Literal["original", "flipped", "none"]
"""Of a pair as it stands: the chosen response is better, the rejected one is, neither is."""

FIRST, SECOND, NEITHER = "Candidate 1", "Candidate 2", "No preference"
PREFERRED = (FIRST, SECOND, NEITHER)

PURPOSE = "judge"

CUT = "[... {} characters are left out here ...]"


@dataclass(frozen=True)
class JudgeOptions:
    """How language models are asked for their preference.

    Args:
        prompt: `judge`, or a template file.
        annotators: names of those who are asked, each about every pair. Default: all.
        votes: of each annotator on a pair; an even number shows every pair as often in either order.
        passes: answers asked for each vote, at most, until one is valid.
        examples: human-labelled pairs shown with each, at most.
        example_chars: longest text of an example; of longer ones the middle is left out.
        seed: of the order in which candidates are shown.
    """

    prompt: str = "judge"
    annotators: list[str] | None = None
    votes: int = 4
    passes: int = 3
    examples: int = 8
    example_chars: int = 6000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError naming the field."""
        for name, least in (("votes", 1), ("passes", 1), ("examples", 0), ("example_chars", 100)):
            if getattr(self, name) < least:
                raise UserError(f"judge.{name} must be at least {least}, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Example:
    """A pair with the verdict of people."""

    pair: Pair
    verdict: Verdict
    attributes: Attributes | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A pair to judge, and what is shown with it: the examples in this order."""

    pair: Pair
    attributes: Attributes | None = None
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote of one annotator.

    Attributes:
        pair: its id.
        sample: number of the vote among the annotator's on this pair, from 0.
        swapped: whether the rejected response was shown as Candidate 1.
        raw: what the annotator preferred, one of PREFERRED; None: it gave no valid answer.
        verdict: that, mapped back to the pair; None with `raw`.
        attempts: answers got.
        error: why there is no valid answer; else empty.
        call: key of the call; `Calls.text` has the reasons that the annotator gave.
    """

    pair: str
    annotator: str
    sample: int
    swapped: bool
    raw: str | None
    verdict: Verdict | None
    attempts: int
    error: str
    call: str

    def row(self) -> dict[str, Any]:
        """Plain values for a table of SCHEMA: `Vote(**vote.row()) == vote`."""
        return asdict(self)


SCHEMA = pa.schema(
    [
        ("pair", pa.string()),
        ("annotator", pa.string()),
        ("sample", pa.int64()),
        ("swapped", pa.bool_()),
        ("raw", pa.string()),
        ("verdict", pa.string()),
        ("attempts", pa.int64()),
        ("error", pa.string()),
        ("call", pa.string()),
    ]
)
"""Columns of a file of votes."""


@dataclass(frozen=True, slots=True)
class ShownAttributes:
    """Attributes as a prompt shows them; the texts, which a model wrote after reading strangers' words, are fenced."""

    task_category: str
    preference_objectivity: str
    controversiality: str
    desired_attributes: str
    annotation_guideline: str


@dataclass(frozen=True, slots=True)
class ShownPair:
    """A pair as a prompt shows it; the three texts are fenced (see `Fence`).

    Attributes:
        preferred: of an example, one of PREFERRED; empty for the target.
    """

    prompt: str
    candidate_1: str
    candidate_2: str
    attributes: ShownAttributes | None
    preferred: str = ""


def judge(calls: Calls, items: Iterable[Item], options: JudgeOptions, total: int | None = None) -> Iterator[list[Vote]]:
    """The votes on each item, in the order of the items, of which `total` are expected.

    A list has options.votes votes of each annotator, failed ones included, by annotator and sample.

    Raises:
        UserError: as `Calls.ask`, or the prompt file does not work.
        ValueError: an item is its own example.
    """
    prompt = Prompt.load(options.prompt, _example())
    names = calls.names(options.annotators)
    requests = (
        request
        for item, opener, place in _places(items)
        for request in _requests(item, opener, place, prompt, names, options)
    )
    each = len(names) * options.votes
    votes: list[Vote] = []
    for answer in calls.ask(requests, parse, options.passes, names, None if total is None else total * each):
        votes.append(_vote(answer))
        if len(votes) == each:
            yield votes
            votes = []


def parse(text: str) -> str | None:
    """The preference in the last JSON object of an answer that has a legal one."""
    preferred = None
    for value in objects(text):
        said = value.get("preferred")
        if isinstance(said, str):
            preferred = _LEGAL.get(" ".join(said.casefold().split()), preferred)
    return preferred


_LEGAL = {name.casefold(): name for name in PREFERRED}


def verdict_of(preferred: str, swapped: bool) -> Verdict:
    """A preference between candidates, mapped back to the pair."""
    if preferred == NEITHER:
        return "none"
    return "original" if (preferred == FIRST) != swapped else "flipped"


def preferred_of(verdict: Verdict, swapped: bool) -> str:
    """The preference between candidates that stands for a verdict; `verdict_of` the other way round."""
    if verdict == "none":
        return NEITHER
    return FIRST if (verdict == "original") != swapped else SECOND


def swaps(seed: int, annotator: str, opener: str, place: int, votes: int) -> list[bool]:
    """For each vote of an annotator on a pair, whether the pair is shown swapped.

    Pairs come in twos, of which `opener` is the first one's id and `place` (0 or 1) this one's number: chance decides for
    the first, and the second gets the opposite.
    """
    first = _chance(seed, "order", annotator, opener)[0] + place
    return [(first + sample) % 2 == 1 for sample in range(votes)]


def _places(items: Iterable[Item]) -> Iterator[tuple[Item, str, int]]:
    """Every item with its two's first id, and its place there."""
    opener = ""
    for i, item in enumerate(items):
        if i % 2 == 0:
            opener = item.pair.id
        yield item, opener, i % 2


def _requests(
    item: Item, opener: str, place: int, prompt: Prompt, names: Sequence[str], options: JudgeOptions
) -> Iterator[Request]:
    examples = item.examples[: options.examples]
    if any(example.pair.contents == item.pair.contents for example in examples):
        raise ValueError(f"pair {item.pair.id} is among its own examples, which tell the verdict")
    everything: tuple[Item | Example, ...] = (item, *examples)
    fence = Fence(text for shown in everything for text in _texts(shown))
    for name in names:
        for sample, swapped in enumerate(swaps(options.seed, name, opener, place, options.votes)):
            order = _example_order(options.seed, name, item.pair.id, sample, examples)
            messages = prompt.render(
                fence=fence.mark,
                target=_shown(item, swapped, fence),
                examples=[
                    _shown(example, turned, fence, options.example_chars)
                    for example, turned in zip(examples, order, strict=True)
                ],
            )
            yield Request((name,), PURPOSE, messages, prompt.version, sample, (item.pair.id, swapped))


def _vote(answer: Answer[str]) -> Vote:
    pair, swapped = answer.request.tag
    verdict = None if answer.value is None else verdict_of(answer.value, swapped)
    (name,) = answer.request.annotators
    return Vote(
        pair,
        name,
        answer.request.sample,
        swapped,
        answer.value,
        verdict,
        answer.attempts,
        answer.error,
        answer.call,
    )


def _example_order(seed: int, name: str, pair: str, sample: int, examples: Sequence[Example]) -> list[bool]:
    """Whether each example is shown swapped: at random, but Candidate 1 is the better one in half of them."""
    chance = {
        i: _chance(seed, "example", name, pair, str(sample), example.pair.id) for i, example in enumerate(examples)
    }
    decided = sorted((i for i in chance if examples[i].verdict != "none"), key=lambda i: chance[i])
    odd = _chance(seed, "odd", name, pair, str(sample))[0]
    is_first = {i: (rank + odd) % 2 == 0 for rank, i in enumerate(decided)}
    return [
        (example.verdict == "original") != is_first[i] if i in is_first else chance[i][0] % 2 == 1
        for i, example in enumerate(examples)
    ]


def _texts(shown: Item | Example) -> Iterator[str]:
    pair = shown.pair
    for message in (*pair.prompt, *pair.chosen, *pair.rejected):
        yield message.content
    if shown.attributes is not None:
        yield shown.attributes.desired_attributes
        yield shown.attributes.annotation_guideline


def _shown(shown: Item | Example, swapped: bool, fence: Fence, longest: int | None = None) -> ShownPair:
    pair, attributes = shown.pair, shown.attributes
    prompt, first, second = (
        _cut(messages, longest)
        for messages in (pair.prompt, *((pair.rejected, pair.chosen) if swapped else (pair.chosen, pair.rejected)))
    )
    return ShownPair(
        fence.conversation(prompt),
        fence.response("candidate_1", first),
        fence.response("candidate_2", second),
        None
        if attributes is None
        else ShownAttributes(
            attributes.task_category,
            attributes.preference_objectivity,
            attributes.controversiality,
            fence.around("desired_attributes", attributes.desired_attributes),
            fence.around("annotation_guideline", attributes.annotation_guideline),
        ),
        preferred_of(shown.verdict, swapped) if isinstance(shown, Example) else "",
    )


def _cut(messages: Sequence[Message], longest: int | None) -> list[Message]:
    """Messages without the middle of those longer than so many characters."""
    cut = []
    for message in messages:
        text = message.content
        if longest is not None and len(text) > longest:
            ends = longest // 2
            text = "\n".join((text[:ends], CUT.format(len(text) - 2 * ends), text[-ends:]))
        cut.append(Message(message.role, text))
    return cut


def _chance(seed: int, *of: str) -> bytes:
    """Bytes that are as good as random, and the same for the same words."""
    return hashlib.sha256("\0".join((str(seed), *of)).encode()).digest()


def _example() -> dict[str, Any]:
    """Values to try a template on."""
    attributes = ShownAttributes("Math", "Objective", "Low", "correctness", "check the result")
    pair = ShownPair("a prompt", "a response", "another", attributes, FIRST)
    return {"fence": Fence([]).mark, "target": pair, "examples": [pair]}
