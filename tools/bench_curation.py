"""Curation of many synthetic rows whose true account is known: exact counts, speed and memory.

    python tools/bench_curation.py [--rows N] [--engine native|ray] [--scratch DIR] [--json FILE]

Rows come in blocks of 100. Of a block 90 are pairs of random words, which share no n-gram and no prompt; the others are
planted, most of them after a row of the block half the rows away, and every tenth block has a bad record instead of a tie:
4 duplicates, 1 contradiction (two pairs go), 1 with a benchmark's n-gram, 1 a short prompt of a held-out file, 2 with a
prompt in which one word is another, 1 tie. Then opinions are planted (`planted_opinions`) and stage 2 decides on what is
left. A run whose account differs by one fails.

preprocess_*   of `curate.preprocess`, in a process of its own, start-up included
decisions_*    of stage 2's decisions on the pairs that are left, likewise
*_seconds, *_rows_per_second
*_peak_gib     memory of that process and all it starts (each page counted once)
sha256         of all that was made; the same on every engine
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from planted_opinions import plant, workspace
from rich.console import Console
from rich.table import Table

from skyrm_jax.curate import passes, stage2
from skyrm_jax.curate.engine import Engine
from skyrm_jax.curate.near_duplicates import NearDuplicates
from skyrm_jax.curate.preprocess import Preprocess, preprocess

BLOCK, BASE, FILES = 100, 90, 4
PROMPT, RESPONSE = 80, 70
"""Words of a prompt and of a response."""
TESTS = 64
"""Prompts of the benchmark and of the held-out file."""
EVERY = 0.25
"""Seconds between two looks at the memory."""

WORDS = np.array(
    [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("a", "e", "io", "u") for c in ("ck", "ll", "m", "nd", "rt", "s")]
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help=f"a multiple of {BLOCK * FILES}")
    parser.add_argument("--engine", choices=["native", "ray"], default="native")
    parser.add_argument("--scratch", type=Path, help="where a temporary folder of about 4 KB a row may be made")
    parser.add_argument("--json", type=Path)
    # The folder to work in, and at what, as the measured process.
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", choices=["preprocess", "decisions"], help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.rows < 1 or args.rows % (BLOCK * FILES):
        parser.error(f"--rows must be a multiple of {BLOCK * FILES}: {args.rows}")
    if args.worker is not None:
        work(args.worker, args.step, Engine(args.engine))
        return
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch)
        nbytes = make(folder, args.rows)
        command = [sys.executable, __file__, "--worker", scratch, "--engine", args.engine, "--step"]
        figures: dict[str, Any] = {
            "engine": args.engine,
            "cores": len(os.sched_getaffinity(0)),
            "rows": args.rows,
            "source_gib": nbytes / 2**30,
            **measured([*command, "preprocess"], "preprocess", args.rows),
        }
        report = json.loads((folder / "out" / "preprocess" / "report.json").read_text(encoding="utf-8"))
        check(report["funnel"], account(args.rows))
        planted = plant(workspace(folder / "out"))
        figures |= measured([*command, "decisions"], "decisions", report["funnel"]["kept"])
        decided = decisions(folder / "out")
        check(decided, planted)
        figures |= {"sha256": digest(folder / "out"), "funnel": report["funnel"], "decided": decided}
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    table = Table("figure", "value")
    for name, value in figures.items():
        if not isinstance(value, dict):
            table.add_row(name, f"{value:,.2f}" if isinstance(value, float) else f"{value}")
    Console().print(table)


# Rows


def make(folder: Path, rows: int) -> int:
    """Writes sources/, benchmarks/ and held_out.jsonl; bytes of the sources."""
    (folder / "sources").mkdir()
    tests = folder / "benchmarks" / "judgebench"
    tests.mkdir(parents=True)
    with (tests / "dataset=judgebench,response_model=gpt-4o-2024-05-13.jsonl").open("w") as file:
        for number in range(TESTS):
            record = {"pair_id": f"{number}", "source": "mmlu-pro-x", "question": test(number), "label": "A>B"}
            record |= {"response_model": "gpt-4o-2024-05-13", "response_A": "yes", "response_B": "no"}
            file.write(json.dumps(record) + "\n")
    with (folder / "held_out.jsonl").open("w") as file:
        for number in range(TESTS):
            file.write(json.dumps({"prompt": short(number), "responses": ["yes"]}) + "\n")
    blocks = rows // BLOCK
    for part in range(FILES):
        with (folder / "sources" / f"{part}.jsonl").open("w") as file:
            for block in range(part * blocks // FILES, (part + 1) * blocks // FILES):
                file.writelines(json.dumps(record) + "\n" for record in records(block, blocks))
    return sum(path.stat().st_size for path in (folder / "sources").iterdir())


def records(block: int, blocks: int) -> Iterator[Any]:
    """The rows of a block."""
    own, other = base(block), base((block + blocks // 2) % blocks)
    names = [f"{block}-{k}" for k in range(BLOCK)]
    for name, (prompt, chosen, rejected) in zip(names, own, strict=False):
        yield {"id": name, "prompt": prompt, "chosen": chosen, "rejected": rejected}
    for k in range(4):
        prompt, chosen, rejected = other[k]
        yield {"id": f"{block}-duplicate-{k}", "prompt": prompt, "chosen": chosen, "rejected": rejected}
    prompt, chosen, rejected = other[4]
    yield {"prompt": prompt, "chosen": rejected, "rejected": chosen}
    said = test(block % TESTS).split()
    start = block % (len(said) - 13)
    ngram = " ".join(said[start : start + 13])
    yield {"prompt": f"{own[5][1]} {ngram} {own[6][1]}", "chosen": f"c{block}", "rejected": "r"}
    yield {"prompt": short(block % TESTS), "chosen": f"c{block}", "rejected": "r"}
    for k in (7, 8):
        words = other[k][0].split()
        words[PROMPT // 2] = "another"
        yield {"prompt": " ".join(words), "chosen": f"c{block}-{k}", "rejected": "r"}
    yield "bad" if block % 10 == 0 else {"prompt": "Which?", "responses": ["this", "that"]}


def base(block: int) -> list[tuple[str, str, str]]:
    """The pairs of random words of a block: prompt, chosen, rejected."""
    numbers = np.random.default_rng([0, block]).integers(0, len(WORDS), (BASE, PROMPT + 2 * RESPONSE))
    ends = (slice(PROMPT), slice(PROMPT, PROMPT + RESPONSE), slice(PROMPT + RESPONSE, None))
    return [(" ".join(row[ends[0]]), " ".join(row[ends[1]]), " ".join(row[ends[2]])) for row in WORDS[numbers].tolist()]


def test(number: int) -> str:
    """A prompt of the benchmark."""
    return " ".join(WORDS[np.random.default_rng([1, number]).integers(0, len(WORDS), 40)].tolist())


def short(number: int) -> str:
    """A prompt of the held-out file."""
    return " ".join(WORDS[np.random.default_rng([2, number]).integers(0, len(WORDS), 6)].tolist())


def account(rows: int) -> dict[str, int]:
    """What preprocessing must count."""
    blocks = rows // BLOCK
    bad = -(-blocks // 10)
    return {
        "records": rows,
        "bad": bad,
        "undecided": blocks - bad,
        "identical_responses": 0,
        "pairs": rows - blocks,
        "identical": 0,
        "duplicate": 4 * blocks,
        "contradictory": 2 * blocks,
        "contaminated": 2 * blocks,
        "near_duplicate": 2 * blocks,
        "kept": (BASE - 1) * blocks,
    }


def check(found: dict[str, int], planted: dict[str, int]) -> None:
    """Ends the tool unless the account is the planted one."""
    wrong = {name: (found.get(name), n) for name, n in planted.items() if found.get(name) != n}
    if wrong:
        raise SystemExit(f"the account is wrong (found, planted): {wrong}")


def decisions(out: Path) -> dict[str, int]:
    """Pairs by decision. Ends the tool if the final pairs are not those that the decisions name."""
    counts: Counter[str] = Counter()
    for part in passes.parts(out / "stage2" / "decisions"):
        rows = pq.read_table(part, columns=["id", "decision"]).to_pylist()
        kept, turned = ([row["id"] for row in rows if row["decision"] == what] for what in ("kept", "flipped"))
        for name, ids in (("filtered", kept), ("corrected", kept + turned)):
            file = out / "final" / name / part.name
            if (pq.read_table(file, columns=["id"])["id"].to_pylist() if file.is_file() else []) != ids:
                raise SystemExit(f"final/{name}/{part.name} holds other pairs than were decided on")
        counts.update(row["decision"] for row in rows)
    return dict(counts)


def digest(out: Path) -> str:
    """Of the tables of pairs and decisions."""
    sha = hashlib.sha256()
    for folder in ("pool", "stage2/decisions", "final/filtered", "final/corrected"):
        for part in passes.parts(out / folder):
            sha.update(part.read_bytes())
    return sha.hexdigest()


# Measuring


def work(folder: Path, step: str, engine: Engine) -> None:
    """What is measured."""
    if step == "decisions":
        curation = workspace(folder / "out")
        curation.config = replace(curation.config, engine=engine)
        stage2.decide(curation, 1, Console())
        return
    options = Preprocess(
        ["sources"],  # so that no name of a temporary folder gets into what is made
        root=str(folder),
        benchmarks=str(folder / "benchmarks"),
        held_out=[str(folder / "held_out.jsonl")],
        near_duplicates=NearDuplicates(),
    )
    preprocess(options, folder / "out", engine)


def measured(command: list[str], name: str, rows: int) -> dict[str, float]:
    """Seconds, rows a second, and peak GiB of memory, of the process and all below it."""
    began, peak = time.perf_counter(), 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(EVERY)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    seconds = time.perf_counter() - began
    return {
        f"{name}_seconds": seconds,
        f"{name}_rows_per_second": rows / seconds,
        f"{name}_peak_gib": peak / 2**30,
    }


def memory(root: int) -> int:
    """Bytes of memory that a process and all below it hold; pages that several share are counted once (PSS)."""
    parents, total = {}, 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
    below = {root}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    for one in below:
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:"))
    return total


if __name__ == "__main__":
    main()
