"""Reward files: every reward of an evaluation, so that all figures can be computed again without a model.

Read: our own parquet (columns set, id, rewards), jsonl records {"id", "rewards"} with an optional "set", and
the output dumps of JudgeBench's authors. `set` is the benchmark's name, or HELD_OUT. Of a held-out record that the
model could not read the rewards are an empty list.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import UserError
from skyrm_jax.eval.benchmarks import judgebench
from skyrm_jax.report.files import whole

HELD_OUT = "held-out"
MADE = b"skyrm_jax"
"""The key, in the metadata of a file, of what made it."""
SCHEMA = pa.schema([("set", pa.string()), ("id", pa.string()), ("rewards", pa.list_(pa.float32()))])

Scored = Mapping[str, tuple[Sequence[Comparison], Sequence[np.ndarray]]]


def keys(comparisons: Sequence[Comparison]) -> list[str]:
    """What a comparison is called in a reward file: its id, or #index where it has none or shares it."""
    uses = Counter(c.id for c in comparisons)
    return [c.id if c.id and uses[c.id] == 1 else f"#{i}" for i, c in enumerate(comparisons)]


def write(path: Path, scored: Scored, made: Mapping[str, Any] | None = None) -> None:
    """Writes the rewards of every set to a parquet file, whole or not at all.

    `made` says what by: origin, and for each set the hash of its contents and what was counted; see `Written`.
    """
    rows = [
        {"set": name, "id": key, "rewards": np.asarray(reward, np.float32).tolist()}
        for name, (comparisons, rewards) in scored.items()
        for key, reward in zip(keys(comparisons), rewards, strict=True)
    ]
    schema = SCHEMA.with_metadata({MADE: json.dumps(made)}) if made is not None else SCHEMA
    with whole(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


@dataclass(frozen=True)
class Written:
    """A finished reward file of ours and what made it.

    Attributes:
        origin: everything about the model that could change a reward.
        contents: set -> hash of its contents.
        counts: set -> what was counted while it was scored.
    """

    path: Path
    origin: dict[str, Any]
    contents: dict[str, str]
    counts: dict[str, dict[str, int]]

    def of(self, name: str, names: Sequence[str]) -> list[np.ndarray]:
        """The rewards of the comparisons of set `name` that are called `names`."""
        table = pq.read_table(self.path, filters=[("set", "=", name)])
        found = dict(zip(table["id"].to_pylist(), table["rewards"].to_pylist(), strict=True))
        return [np.array(found[key], np.float32) for key in names]


def provenance(path: Path) -> Written | None:
    """What made a reward file, if it is one of ours that says so."""
    try:
        made = json.loads((pq.read_schema(path).metadata or {})[MADE])
        return Written(path, made["origin"], made["contents"], made["counts"])
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return None


class RewardFile:
    """Rewards by set and id, from a file of any accepted form."""

    def __init__(self, path: Path):
        """Raises UserError, naming file and line, for what is not a reward file and for duplicate ids."""
        self.path = path
        written = provenance(path) if path.suffix == ".parquet" else None
        self.origin: dict[str, Any] = {} if written is None else written.origin
        """What made them, where the file says so."""
        self._rewards: dict[tuple[str | None, str], np.ndarray] = {}
        if not path.is_file():
            raise UserError(f"--from-rewards {path}: no such file")
        for where, record in _records(path):
            self._add(where, record)
        if not self._rewards:
            raise UserError(f"{path}: the file holds no rewards")

    def _add(self, where: str, record: Mapping[str, Any]) -> None:
        key: tuple[str | None, str]
        if "judgments" in record and "pair_id" in record:
            key, values = ("judgebench", record["pair_id"]), judgebench.published_rewards(record, where)
        elif "id" in record and "rewards" in record:
            key, values = (record.get("set"), str(record["id"])), record["rewards"]
        else:
            raise UserError(f"{where}: a record needs the fields id and rewards; it has {', '.join(record)}")
        try:
            rewards = np.array(values, np.float64)
        except (TypeError, ValueError):
            raise UserError(f"{where}: field rewards must be a list of numbers, not {values!r}") from None
        if key in self._rewards:
            raise UserError(f"{where}: id {key[1]!r} occurs twice: remove one of the two")
        self._rewards[key] = rewards

    def of(self, name: str, comparisons: Sequence[Comparison]) -> list[np.ndarray]:
        """The rewards of the comparisons of set `name`, in order; raises UserError if any is missing."""
        found = [self._rewards.get((name, key), self._rewards.get((None, key))) for key in keys(comparisons)]
        missing = [key for key, rewards in zip(keys(comparisons), found, strict=True) if rewards is None]
        if missing:
            raise UserError(
                f"{self.path}: no rewards for {len(missing)} of the {len(comparisons)} comparisons of {name} "
                f"(the first: {', '.join(missing[:3])}): no figure is computed from a part"
            )
        return [rewards for rewards in found if rewards is not None]


def _records(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    if path.suffix == ".parquet":
        try:
            rows = pq.read_table(path).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a readable parquet file ({error})") from None
        return [(f"{path}, row {i}", row) for i, row in enumerate(rows)]
    out: list[tuple[str, Mapping[str, Any]]] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON in UTF-8 ({error})") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number}: a record must be a JSON object")
        out.append((f"{path}, line {number}", record))
    return out
