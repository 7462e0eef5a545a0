"""Opinions on every pair of a pool, drawn at random, and what stage 2 must make of them: for `bench_curation`.

Written where a curation would have put them: the rewards of two models, the annotators' labels of the pairs that the best
model is in doubt about, and an iteration of stage 1 in which people and annotators have judged some pairs.
"""

from collections import Counter
from math import log
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skyrm_jax.curate import passes, stage2
from skyrm_jax.curate.config import CurateConfig, Stage1
from skyrm_jax.curate.labelling import LABELS
from skyrm_jax.curate.pair import SCHEMA
from skyrm_jax.curate.preprocess import Preprocess
from skyrm_jax.curate.training import RewardModel
from skyrm_jax.curate.workspace import GOLD, Workspace

SURE = log(0.6 / 0.4)
"""The best model is in doubt where its margin is not above this: p <= 0.5 + the default band."""
PEOPLE, STAGE1 = 0.005, 0.02
"""Shares of the pairs that people, and that annotators in stage 1, have judged."""
VERDICTS = ("original", "flipped", "none")


def workspace(folder: Path) -> Workspace:
    """A curation in a folder whose stage 1 has one iteration."""
    return Workspace(
        CurateConfig(str(folder), RewardModel("none"), Preprocess([str(folder)]), stage1=Stage1(iterations=0))
    )


def plant(work: Workspace) -> dict[str, int]:
    """Writes the opinions; how many pairs must be kept, flipped and discarded."""
    expected: Counter[str] = Counter()
    gold, early = [], []
    for number, part in enumerate(passes.parts(work.pool)):
        ids = pq.read_table(part, columns=["id"])["id"].combine_chunks()
        rng = np.random.default_rng([3, number])
        best, sure = (np.round(rng.normal(1, 2, len(ids)) * 64) / 64 for _ in range(2))
        says, people = (np.array(VERDICTS)[rng.integers(0, 3, len(ids))] for _ in range(2))
        seen, before = rng.random(len(ids)) < PEOPLE, rng.random(len(ids)) < STAGE1
        asked = before | (~seen & (best <= SURE))
        for name, margins in (("best", best), ("gold", sure)):
            scores = [ids, pa.array(margins, pa.float32()), pa.nulls(len(ids), pa.float32()).fill_null(0.0)]
            _write(stage2.scores(work, name) / part.name, pa.table(scores, schema=passes.SCORES))
        labels = _labels(ids, says)
        _write(work.stage2 / "labels" / part.name, labels.filter(pa.array(asked & ~before)))
        early.append(labels.filter(pa.array(before)))
        rows = pq.read_table(part, columns=SCHEMA.names).filter(pa.array(seen))
        gold.append(_wide(rows, GOLD, verdict=pa.array(people[seen])))
        columns = (best.tolist(), sure.tolist(), says.tolist(), people.tolist(), asked.tolist(), seen.tolist())
        expected.update(decision(*row) for row in zip(*columns, strict=True))
    _write(work.iteration(0).file("labels"), pa.concat_tables(early))
    _write(work.iteration(0).file("gold"), pa.concat_tables(gold))
    return dict(expected)


def decision(best: float, gold: float, says: str, people: str, asked: bool, seen: bool) -> str:
    """What must become of a pair: the default rule, in plain words."""
    if seen:
        return {"original": "kept", "flipped": "flipped", "none": "discarded"}[people]
    if gold > 0 and (best > SURE or (asked and says == "original")):
        return "kept"
    if gold < 0 and (best < -SURE or (asked and says == "flipped")):
        return "flipped"
    return "discarded"


def _labels(ids: pa.Array, says: np.ndarray) -> pa.Table:
    return _wide(pa.table({"id": ids}), LABELS, verdict=pa.array(says))


def _wide(table: pa.Table, schema: pa.Schema, **columns: pa.Array) -> pa.Table:
    """The table with these columns, and nulls for the others of the schema."""
    given = {name: table[name] for name in table.column_names} | columns
    return pa.table([given.get(field.name, pa.nulls(len(table), field.type)) for field in schema], schema=schema)


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
