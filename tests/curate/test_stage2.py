"""The decisions on parts of a pool, from files: every pair lands where it belongs, on every engine."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skyrm_jax.comparison import Message
from skyrm_jax.curate.decisions import Rule
from skyrm_jax.curate.engine import Engine, each
from skyrm_jax.curate.labelling import LABELS
from skyrm_jax.curate.pair import SCHEMA, Pair
from skyrm_jax.curate.passes import SCORES
from skyrm_jax.curate.stage2 import Part, decide_part
from skyrm_jax.errors import UserError

VERDICTS = [None, "original", "flipped", "none"]


def write_part(folder: Path, number: int, count: int = 64) -> Part:
    """A part of random pairs, scores and verdicts, and the decisions to make on it."""
    rng = np.random.default_rng(number)
    name = f"part-{number:05d}.parquet"
    pairs = [
        Pair.of([Message("user", f"{number} {i}")], [Message("assistant", "yes")], [Message("assistant", "no")])
        for i in range(count)
    ]
    ids = [pair.id for pair in pairs]
    for kind in ("pool", "best", "gold", "labels", "decisions", "filtered", "corrected"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([pair.row() for pair in pairs], SCHEMA), folder / "pool" / name)
    for model in ("best", "gold"):
        rewards = rng.normal(0, 2, (2, count)).astype(np.float32)
        pq.write_table(pa.table([ids, *rewards], schema=SCORES), folder / model / name)
    asked = rng.choice(count, count // 2, replace=False)
    labels = [
        {"id": ids[i], "verdict": VERDICTS[rng.integers(4)], "share": 1.0, "original": 0, "flipped": 0, "none": 0}
        for i in asked
    ]
    pq.write_table(pa.Table.from_pylist(labels, LABELS), folder / "labels" / name)
    earlier = folder / f"earlier-{number}.parquet"
    seen = rng.choice(count, 8, replace=False)
    rows = [{"id": ids[i], "human": VERDICTS[1 + rng.integers(3)], "annotators": None} for i in seen]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([(n, pa.string()) for n in rows[0]])), earlier)
    gold, labelled = folder / "gold" / name, folder / "labels" / name
    made = [folder / kind / name for kind in ("decisions", "filtered", "corrected")]
    return Part(Rule(), folder / "pool" / name, folder / "best" / name, gold, labelled, earlier, *made)


def test_pairs_land_where_they_belong(tmp_path: Path) -> None:
    part = write_part(tmp_path, 0)
    assert decide_part(part) == 64
    rows = {row["id"]: row for row in pq.read_table(part.decisions).to_pylist()}
    pool = {row["id"]: row for row in pq.read_table(part.pool).to_pylist()}
    assert list(rows) == list(pool)
    labels = {row["id"]: row["verdict"] for row in pq.read_table(part.labels).to_pylist()}
    people = {row["id"]: row["human"] for row in pq.read_table(part.earlier).to_pylist()}
    scores = pq.read_table(part.best).to_pylist()
    for score in scores:
        row = rows[score["id"]]
        p = 1 / (1 + np.exp(score["rejected"] - score["chosen"]))
        assert row["best_p"] == pytest.approx(p, abs=1e-6)
        assert row["best"] == ("original" if p > 0.6 else "flipped" if p < 0.4 else "none")
        assert row["annotators"] == labels.get(row["id"])
        assert row["human"] == people.get(row["id"])
    by = {
        name: {id for id, row in rows.items() if row["decision"] == name} for name in ("kept", "flipped", "discarded")
    }
    assert all(by.values())
    filtered = {row["id"]: row for row in pq.read_table(part.filtered).to_pylist()}
    corrected = {row["id"]: row for row in pq.read_table(part.corrected).to_pylist()}
    assert filtered.keys() == by["kept"] and corrected.keys() == by["kept"] | by["flipped"]
    for id, row in corrected.items():
        sides = (row["chosen"], row["rejected"])
        expected = (pool[id]["chosen"], pool[id]["rejected"])
        assert sides == (expected if id in by["kept"] else expected[::-1])
        assert (row["by"], row["decision"]) == (rows[id]["by"], rows[id]["decision"])


def test_a_part_without_a_pair_to_train_on_gives_no_file(tmp_path: Path) -> None:
    part = replace(write_part(tmp_path, 0), rule=Rule(keep="annotators"), gold=None, labels=None)
    rows = pq.read_table(part.earlier).to_pylist()
    write = [row | {"human": "none"} for row in rows]
    pq.write_table(pa.Table.from_pylist(write, pq.read_schema(part.earlier)), part.earlier)
    part.filtered.write_text("of an earlier run")
    assert decide_part(part) == 64
    assert set(pq.read_table(part.decisions)["decision"].to_pylist()) == {"discarded"}
    assert not part.filtered.exists() and not part.corrected.exists()


def test_scores_of_other_pairs_are_refused(tmp_path: Path) -> None:
    part, other = write_part(tmp_path / "a", 0), write_part(tmp_path / "b", 1)
    with pytest.raises(UserError, match="holds the scores of other pairs"):
        decide_part(replace(part, gold=other.gold))
    assert not part.decisions.exists()


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from skyrm_jax.curate.engine import Engine, each
from skyrm_jax.curate.stage2 import decide_part
from test_stage2 import write_part
if __name__ == "__main__":
    Engine("ray").start()
    parts = [write_part(Path(sys.argv[1]), number) for number in range(5)]
    assert sorted(each(decide_part, parts, processes=False)) == [64] * 5
"""


@pytest.mark.full
def test_ray_decides_the_same(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    Engine().start()
    parts = [write_part(tmp_path / "native", number) for number in range(5)]
    assert sorted(each(decide_part, parts, processes=False)) == [64] * 5
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "ray"), str(Path(__file__).parent)]
    subprocess.run(command, check=True)
    made = {
        engine: {
            str(path.relative_to(tmp_path / engine)): path.read_bytes()
            for path in sorted((tmp_path / engine).rglob("*.parquet"))
        }
        for engine in ("native", "ray")
    }
    assert len(made["native"]) == 5 * 8 and made["native"] == made["ray"]
