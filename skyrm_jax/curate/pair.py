"""The unit of curation: one conversation, a chosen and a rejected continuation of it, and where they came from."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import pyarrow as pa

from skyrm_jax.comparison import Comparison, Message, Preference

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", MESSAGES),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("source", pa.string()),
        ("category", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("record", pa.string()),
    ]
)
"""Columns of a file of pairs."""


@dataclass(frozen=True, slots=True)
class Pair:
    """`chosen` is said to be the better continuation of `prompt`.

    Attributes:
        id: `digest` of prompt, chosen and rejected, so that equal pairs have equal ids wherever they come from.
        source, category: of the record; may be empty.
        file, line: where the record stands (line, or number in a JSON list or parquet file, from 1).
        record: the record's own id; several pairs may come from one record.
    """

    id: str
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    source: str = ""
    category: str = ""
    file: str = ""
    line: int = 0
    record: str = ""

    @classmethod
    def of(
        cls, prompt: Sequence[Message], chosen: Sequence[Message], rejected: Sequence[Message], **names: Any
    ) -> Self:
        """A pair with the id that its texts give it."""
        return cls(digest(prompt, chosen, rejected), tuple(prompt), tuple(chosen), tuple(rejected), **names)

    @property
    def contents(self) -> str:
        """Equal for two pairs of the same texts, whichever of the two responses is the chosen one."""
        return self.unlabelled().id

    @property
    def prompt_key(self) -> str:
        """Equal for pairs of the same prompt."""
        return digest(self.prompt)

    def flipped(self) -> Self:
        """The same with the label turned round."""
        return replace(
            self,
            id=digest(self.prompt, self.rejected, self.chosen),
            chosen=self.rejected,
            rejected=self.chosen,
        )

    def unlabelled(self) -> Self:
        """This or its flip: the same for both, so that nothing in it tells the label."""
        return min(self, self.flipped(), key=lambda pair: pair.id)

    def comparison(self) -> Comparison:
        """Response 0 is the chosen one; named by the pair's id."""
        return Comparison(
            self.prompt, (self.chosen, self.rejected), (Preference(0, 1),), self.id, self.source, self.category
        )

    def row(self) -> dict[str, Any]:
        """Plain values for a table of SCHEMA: `Pair.of_row(pair.row()) == pair`."""
        return asdict(self)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """The pair of a table's row; columns that are not of SCHEMA are passed over."""
        values: dict[str, Any] = {name: row[name] for name in SCHEMA.names}
        for name in TEXTS:
            values[name] = tuple(Message(m["role"], m["content"]) for m in values[name])
        return cls(**values)


TEXTS = ("prompt", "chosen", "rejected")


def pairs_of(comparison: Comparison, file: str, line: int) -> Iterator[Pair]:
    """The pairs that a comparison's preferences name; a soft label counts for the likelier side (p = 0.5 for none)."""
    for preference in comparison.preferences:
        if preference.p == 0.5:
            continue
        winner, loser = preference.winner, preference.loser
        if preference.p < 0.5:
            winner, loser = loser, winner
        yield Pair.of(
            comparison.prompt,
            comparison.responses[winner],
            comparison.responses[loser],
            source=comparison.source,
            category=comparison.category,
            file=file,
            line=line,
            record=comparison.id,
        )


def digest(*parts: Sequence[Message]) -> str:
    """32 hexadecimal digits for the texts and roles of some runs of messages; lengths are hashed, so none can be moved."""
    sha = hashlib.blake2b(digest_size=16)
    for part in parts:
        sha.update(len(part).to_bytes(4, "little"))
        for message in part:
            for text in (message.role, message.content):
                encoded = text.encode()
                sha.update(len(encoded).to_bytes(8, "little"))
                sha.update(encoded)
    return sha.hexdigest()
