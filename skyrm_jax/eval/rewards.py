"""Reward files: every reward of an evaluation, so that all figures can be computed again without a model.

Read: our own parquet (columns set, id, text, rewards), jsonl records {"id", "rewards"} with an optional "set", and
the output dumps of JudgeBench's authors. `set` is the benchmark's name, or HELD_OUT, and `text` a hash of what was
scored. Of a comparison that the model could not read our own files hold an empty list.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skyrm_jax.comparison import Comparison, number
from skyrm_jax.errors import UserError
from skyrm_jax.eval.benchmarks import judgebench
from skyrm_jax.report.files import whole

HELD_OUT = "held-out"
MADE = b"skyrm_jax"
"""The key, in the metadata of a file, of what made it."""
SCHEMA = pa.schema(
    [("set", pa.string()), ("id", pa.string()), ("text", pa.string()), ("rewards", pa.list_(pa.float64()))]
)
_NUMBERED = re.compile(r"#\d+")
"""What a comparison without an id of its own is called."""

PER_SET = ("contents", "counts", "computed")
"""What a file of ours says of each set."""

Scored = Mapping[str, tuple[Sequence[Comparison], Sequence[np.ndarray]]]


def keys(comparisons: Sequence[Comparison]) -> list[str]:
    """What a comparison is called in a reward file: its id, or #index where it has none, shares it, or it looks like one."""
    uses = Counter(c.id for c in comparisons)
    return [
        c.id if c.id and uses[c.id] == 1 and not _NUMBERED.fullmatch(c.id) else f"#{i}"
        for i, c in enumerate(comparisons)
    ]


def text_hash(comparison: Comparison) -> str | None:
    """A hash of all that a model reads of a comparison, whatever its labels and names; None without text, as in a store."""
    if not all(comparison.responses):
        return None
    turns = [comparison.prompt, *comparison.responses]
    said = [[[message.role, message.content] for message in turn] for turn in turns]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def write(path: Path, scored: Scored, made: Mapping[str, Any] | None = None) -> None:
    """Writes the rewards of every set to a parquet file, whole or not at all.

    `made` says what by: origin, and for each set the attributes of `Written`. Other sets that the file holds, made by the
    same, stay in it.
    """
    rows = [
        {"set": name, "id": key, "text": text_hash(one), "rewards": np.asarray(reward, np.float64).tolist()}
        for name, (comparisons, rewards) in scored.items()
        for key, one, reward in zip(keys(comparisons), comparisons, rewards, strict=True)
    ]
    before = provenance(path)
    if made is not None and before is not None and before.origin == plain(made["origin"]):
        others = [name for name in before.contents if name not in scored]
        rows += pq.read_table(path, filters=[("set", "in", others)]).to_pylist() if others else []
        for what in PER_SET:
            kept = {name: value for name, value in getattr(before, what).items() if name in others}
            made = {**made, what: {**made[what], **kept}}
    schema = SCHEMA.with_metadata({MADE: json.dumps(made)}) if made is not None else SCHEMA
    with whole(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


def require_room(path: Path, origin: Mapping[str, Any], contents: Mapping[str, str]) -> None:
    """Raises UserError if writing rewards made by `origin`, of sets with these hashes of their contents, would lose some
    that the file at `path` holds: those of another model, or of other comparisons of a set."""
    if not path.is_file():
        return
    try:
        held = sorted(set(pq.read_table(path, columns=["set"])["set"].to_pylist()))
    except (pa.ArrowException, OSError, KeyError):
        return  # nothing that could be read
    before, now = provenance(path), plain(origin)
    if before is None:
        lost, because = held, "something else made (it does not say what)"
    elif before.origin != now:
        differ = [name for name in {**before.origin, **now} if before.origin.get(name) != now.get(name)]
        lost, because = held, f"something else made (its {', '.join(differ)} differ)"
    else:
        lost = [name for name in held if name in contents and before.contents.get(name) != contents[name]]
        because = "are of other data"
    if lost:
        raise UserError(
            f"{path}: holds rewards of {', '.join(lost)} that {because} and that would be lost: "
            "give another --out, or move the file away"
        )


def plain(origin: Mapping[str, Any]) -> dict[str, Any]:
    """As it reads back from JSON."""
    found: dict[str, Any] = json.loads(json.dumps(origin))
    return found


@dataclass(frozen=True)
class Written:
    """A finished reward file of ours and what made it.

    Attributes:
        origin: everything about the model that could change a reward.
        contents: set -> hash of its contents.
        counts: set -> what was counted while it was scored.
        computed: set -> how it was computed, such as in which batches: what may change from part to part of it.
    """

    path: Path
    origin: dict[str, Any]
    contents: dict[str, str]
    counts: dict[str, dict[str, int]]
    computed: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, name: str, names: Sequence[str]) -> list[np.ndarray]:
        """The rewards of the comparisons of set `name` that are called `names`."""
        table = pq.read_table(self.path, filters=[("set", "=", name)])
        found = dict(zip(table["id"].to_pylist(), table["rewards"].to_pylist(), strict=True))
        return [np.array(found[key], np.float32) for key in names]


def provenance(path: Path) -> Written | None:
    """What made a reward file, if it is one of ours that says so."""
    try:
        made = json.loads((pq.read_schema(path).metadata or {})[MADE])
        return Written(path, made["origin"], made["contents"], made["counts"], made.get("computed", {}))
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class _Found:
    """The rewards of a record, f64[K] if they are as they should be, and a hash of the text that they are of, if known."""

    where: str
    rewards: np.ndarray
    text: str | None


class RewardFile:
    """Rewards by set and id, from a file of any accepted form."""

    def __init__(self, path: Path):
        """Raises UserError, naming file and line, for what is not a reward file and for duplicate ids."""
        self.path = path
        if not path.is_file():
            raise UserError(f"--from-rewards {path}: no such file")
        self.written = provenance(path) if path.suffix == ".parquet" else None
        """What made them, where the file says so."""
        self._rewards: dict[tuple[str | None, str], _Found] = {}
        for where, record in _records(path):
            self._add(where, record)
        if not self._rewards:
            raise UserError(f"{path}: the file holds no rewards")

    def _add(self, where: str, record: Mapping[str, Any]) -> None:
        of: Any
        if "judgments" in record and "pair_id" in record:
            of, name, values = "judgebench", record["pair_id"], judgebench.published_rewards(record, where)
        elif "id" in record and "rewards" in record:
            of, name, values = record.get("set"), record["id"], record["rewards"]
        else:
            raise UserError(f"{where}: a record needs the fields id and rewards; it has {', '.join(record)}")
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise UserError(f"{where}: the id must be text or a whole number, not {name!r:.80}")
        if of is not None and not isinstance(of, str):
            raise UserError(f"{where}: field set must be the name of a benchmark, or {HELD_OUT}, not {of!r:.80}")
        if not isinstance(values, list) or not all(value is None or number(value) for value in values):
            raise UserError(f"{where}: field rewards must be a list of numbers, not {values!r:.80}")
        try:
            rewards = np.array(values, np.float64)
        except OverflowError:
            raise UserError(f"{where}: field rewards holds a number too large: {values!r:.80}") from None
        key = of, str(name)
        if key in self._rewards:
            raise UserError(f"{where}: id {key[1]!r} occurs twice: remove one of the two")
        self._rewards[key] = _Found(where, rewards, record.get("text") if self.written is not None else None)

    @property
    def origin(self) -> dict[str, Any]:
        """What made them: as the file says, or else the file."""
        if self.written is not None:
            return self.written.origin
        return {"file": str(self.path), "file_sha256": hashlib.sha256(self.path.read_bytes()).hexdigest()}

    def is_of(self, name: str, content: str) -> bool:
        """Whether the file says that it was made of set `name` with this hash of its contents."""
        return self.written is not None and self.written.contents.get(name) == content

    def require_same(self, name: str, content: str) -> None:
        """Raises UserError if the file says that it was made of a set `name` with other contents.

        For comparisons that are called by their place: in other data the same names are of other comparisons.
        """
        if self.written is not None and name in self.written.contents and not self.is_of(name, content):
            raise UserError(
                f"{self.path}: its rewards of {name} are of other comparisons, and these have no ids of their own to find "
                "theirs by: give the data that was scored, or comparisons with ids"
            )

    def of(self, name: str, comparisons: Sequence[Comparison]) -> list[np.ndarray]:
        """The rewards of the comparisons of set `name`, in order.

        Raises UserError if any is missing or not finite, and, naming file and line, if they are of another text or more
        or fewer than the responses; only of comparisons that the model could not read are there none.
        """
        names = keys(comparisons)
        for key in names:
            if (name, key) in self._rewards and (None, key) in self._rewards:
                where = self._rewards[None, key].where
                raise UserError(f"{where}: id {key!r} occurs twice, once with a set: remove one of the two")
        found = [self._rewards.get((name, key), self._rewards.get((None, key))) for key in names]
        missing = [key for key, rewards in zip(names, found, strict=True) if rewards is None]
        if missing:
            raise UserError(
                f"{self.path}: no rewards for {len(missing)} of the {len(comparisons)} comparisons of {name} "
                f"(the first: {', '.join(missing[:3])}): no figure is computed from a part; the ids in the file are such as "
                f"{', '.join(key for _, key in list(self._rewards)[:3])}. rewards.parquet of --baseline length has all ids"
            )
        return [
            self._checked(key, comparison, one, name == HELD_OUT or self.written is not None)
            for key, comparison, one in zip(names, comparisons, found, strict=True)
            if one is not None
        ]

    @staticmethod
    def _checked(key: str, comparison: Comparison, found: "_Found", may_be_unread: bool) -> np.ndarray:
        """The rewards. Raises UserError as `of` does."""
        count, where, rewards = len(comparison.responses), found.where, found.rewards
        if found.text is not None and text_hash(comparison) not in (None, found.text):
            raise UserError(
                f"{where}: the rewards of {key!r} are of another text than the comparison of that name has here: "
                "give the data that was scored, or score this"
            )
        if may_be_unread and rewards.shape == (0,):
            return rewards
        if rewards.shape != (count,):
            raise UserError(
                f"{where}: id {key!r} has {count} responses but rewards of shape {rewards.shape}: give one for each"
            )
        if not np.isfinite(rewards).all():
            raise UserError(
                f"{where}: id {key!r} has a reward that is not a finite number ({rewards.tolist()}): "
                "the model or the file is broken, and no figure is computed from it"
            )
        return rewards


def _records(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    if path.suffix == ".parquet":
        try:
            rows = pq.read_table(path).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a readable parquet file ({error})") from None
        return [(f"{path}, row {i}", row) for i, row in enumerate(rows)]
    out: list[tuple[str, Mapping[str, Any]]] = []
    for line, raw in enumerate(path.read_bytes().splitlines(), 1):
        if not raw.strip():
            continue
        try:
            record = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {line}: not JSON in UTF-8 ({error})") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {line}: a record must be a JSON object")
        out.append((f"{path}, line {line}", record))
    return out
