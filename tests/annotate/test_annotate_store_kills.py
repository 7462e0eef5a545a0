"""Killed again and again while several threads answer, a store keeps every answer that it acknowledged; and an import that
is killed loses its place, and no more."""

import json
import random
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_batches import waiting

from skyrm_jax.annotate.exchange import import_batch
from skyrm_jax.annotate.store import Options, Store
from skyrm_jax.curate.humans.batch import write_batch

KILLS, PEOPLE = 20, ("ann", "bob", "cat", "dan")

PROGRAM = """
import os, sys, threading
from pathlib import Path
from skyrm_jax.annotate.given import Given
from skyrm_jax.annotate.store import Store

store = Store(Path(sys.argv[1]))

def work(who):
    while (shown := store.next(who)) is not None:
        recorded = store.answer(who, shown.lease, Given("left better", note=f"{who} {shown.item.item}"))
        os.write(1, f"{recorded.answer} {who} {shown.item.item} {shown.lease}\\n".encode())

for who in sys.argv[2:]:
    threading.Thread(target=work, args=(who,)).start()
"""


IMPORT = """
import sys
from pathlib import Path
from skyrm_jax.annotate import exchange, staging
from skyrm_jax.annotate.exchange import import_batch
from skyrm_jax.annotate.store import Store

staging.PART_LINES = 7
exchange.sleep = lambda _: print("a part is in", flush=True)
with Store(Path(sys.argv[1]), alone=False) as store:
    import_batch(store, Path(sys.argv[2]))
"""


@pytest.mark.full
def test_an_import_killed_again_and_again_comes_to_the_same(tmp_path: Path) -> None:
    batch = write_batch(tmp_path, "b", waiting(700), 0)
    rows = [json.loads(line) for line in batch.read_text().splitlines()]
    for n, row in enumerate(rows):
        row["attributes"]["controversiality"] = ("High", "Medium", "Low")[n % 3]
        if n % 5 == 0:
            row |= {"verdict": "candidate 1", "annotator": "zoe", "time": "2025-07-02T13:30:00+00:00"}
    batch.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Store(tmp_path / "whole") as whole:
        import_batch(whole, batch)
    chance = random.Random(1)
    counts = []
    for n in range(6):
        command = [sys.executable, "-c", IMPORT, str(tmp_path / "store"), str(batch)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            if n < 5:
                assert all(process.stdout.readline() for _ in range(4))
                time.sleep(chance.uniform(0, 0.02))
                process.kill()
            else:
                process.communicate(timeout=120)
                assert process.returncode == 0
        with Store(tmp_path / "store") as store:
            counts.append(sum(1 for name in store.batches() for _ in store.items(name)))
    assert counts == sorted(counts) and len(set(counts)) > 2
    with Store(tmp_path / "store") as store, Store(tmp_path / "whole") as whole:
        for query in (
            "SELECT id, name, overlap, gold, machine, state, slots FROM items",
            "SELECT * FROM texts ORDER BY item",
            "SELECT item, who, verdict, time FROM answers ORDER BY id",
            "SELECT * FROM tally ORDER BY state",
        ):
            with store.reading() as one, whole.reading() as other:
                assert one.execute(query).fetchall() == other.execute(query).fetchall()


@pytest.mark.full
def test_twenty_kills_lose_no_acknowledged_answer(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with Store(folder, Options(overlap=2, gold_share=0)) as store:
        import_batch(store, write_batch(tmp_path, "b", waiting(3000), 0))
        for who in PEOPLE:
            store.annotator(who, create=True)
    chance = random.Random(0)
    acknowledged: set[str] = set()
    for _ in range(KILLS):
        with subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), *PEOPLE], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 60)[0]  # at work
            time.sleep(chance.uniform(0.01, 0.3))
            assert process.poll() is None
            process.kill()
            # A kill may cut the last line: what was acknowledged is whole lines.
            said = process.stdout.read().decode().rpartition("\n")[0].splitlines()
        assert said
        acknowledged |= set(said)
        with Store(folder) as store:
            rows = list(store.answers())
            leases = {event.seq: event.lease for event in store.events() if event.kind == "answered"}
            kept = {f"{row.answer} {row.who} {row.item} {leases[row.answer]}" for row in rows}
            assert acknowledged <= kept
            assert all(row.note == f"{row.who} {row.item}" for row in rows)
            assert len({(row.who, row.item) for row in rows}) == len(rows)
            # Between an answer and its acknowledgement there is one at most in each thread.
            assert len(kept) - len(acknowledged) <= KILLS * len(PEOPLE)
            with store.writing() as db:
                assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert len(acknowledged) > 10 * KILLS
