"""Verified pairs and what finds those most like others: the examples that annotators are shown with a question."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

from jaxtyping import Float
from numpy import ndarray

from skyrm_jax.comparison import Comparison, Message
from skyrm_jax.curate.attributes import Attributes
from skyrm_jax.curate.judge import Example, Item
from skyrm_jax.curate.pair import Pair
from skyrm_jax.curate.retrieval import top_k
from skyrm_jax.embedder import Embedder


class Gold:
    """Verified pairs. The embedder is loaded when it is first needed, and embeds them once.

    Args:
        examples: the pairs, decided by people.
        load: gives the embedder, or None where there is none yet.
    """

    def __init__(self, examples: Sequence[Example], load: Callable[[], Embedder | None]) -> None:
        self.examples = examples
        self._load = load
        self._vectors: dict[bool, ndarray] = {}

    @cached_property
    def embedder(self) -> Embedder | None:
        """What makes the vectors."""
        return self._load()

    def vectors(self, with_attributes: bool) -> Float[ndarray, "n D"]:
        """Of the examples. There must be an embedder."""
        assert self.embedder is not None
        if with_attributes not in self._vectors:
            kept = [one.attributes if with_attributes else None for one in self.examples]
            shown = (described(one.pair, attributes) for one, attributes in zip(self.examples, kept, strict=True))
            self._vectors[with_attributes] = self.embedder.embed(shown)
        return self._vectors[with_attributes]

    def items(self, pairs: Sequence[Pair], attributes: Mapping[str, Attributes], most: int) -> Iterator[Item]:
        """Pairs to judge, each with the verified pairs most similar to it, the most similar last, next to the question.

        A pair that was verified with the other label is none of its own examples. Nothing is computed before the first is
        asked for.
        """
        if not self.examples or not most or not pairs or self.embedder is None:
            yield from (Item(pair, attributes.get(pair.id)) for pair in pairs)
            return
        queries = self.embedder.embed(described(pair, attributes.get(pair.id)) for pair in pairs)
        found, _ = top_k(queries, self.vectors(True), min(most + 1, len(self.examples)))
        for pair, rows in zip(pairs, found, strict=True):
            examples = [one for row in rows if (one := self.examples[int(row)]).pair.contents != pair.contents]
            yield Item(pair, attributes.get(pair.id), tuple(examples[:most][::-1]))


def described(pair: Pair, attributes: Attributes | None) -> Comparison:
    """What is embedded of a pair: the conversation with either response and, as another response, the attributes.

    So one tree gives the vector of (conversation, attributes), and which response is the chosen one does not show in it.
    """
    one = pair.unlabelled()
    responses = [one.chosen, one.rejected]
    if attributes is not None:
        text = "; ".join(f"{name.replace('_', ' ')}: {value}" for name, value in attributes.row().items())
        responses.append((Message("assistant", text),))
    return Comparison(pair.prompt, tuple(responses), (), pair.id)
