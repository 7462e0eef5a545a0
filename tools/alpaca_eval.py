"""The alpaca_eval experiment: judgements of several models on the same prompts as K-response comparisons.

    python tools/alpaca_eval.py merge DIR --out merged.jsonl
    python tools/alpaca_eval.py compare DIR --merged merged.jsonl --rewards rewards.parquet [--json FILE]

DIR holds *__annotations.json. A judgement without a preference (exactly 1.5, or 0, which marks equal answers) is left out
and counted. `merge` puts all judgements of a prompt into one comparison, so that the reference answer
they share is computed once; what cannot be read goes to FILE.quarantine.jsonl. `compare` takes the rewards that `skyrm eval --held-out STORE` wrote, and puts the model
beside two rules that need none, on the same held-out pairs: "the longer answer wins" (characters, a tie is worth half)
and "the reference model wins". Intervals are bootstrapped by prompt, 95 %.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from skyrm_jax.comparison import Comparison, Preference, to_record
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import read_comparisons
from skyrm_jax.errors import UserError, run_command
from skyrm_jax.eval.statistics import bootstrap, estimate, ratio


def by_prompt(folder: Path, quarantine: Quarantine) -> dict[str, list[Comparison]]:
    """The decided judgements, two responses each, the reference model's first, by the id that `merge` gives their prompt.

    Raises UserError if there are none.
    """
    files = sorted(folder.glob("*__annotations.json"))
    if not files:
        raise UserError(f"{folder}: holds no *__annotations.json; give the folder of the judgements")
    groups: dict[str, list[Comparison]] = {}
    for comparison in read_comparisons(files, "alpaca_eval", True, quarantine):
        text = json.dumps([[m.role, m.content] for m in comparison.prompt])
        key = "prompt-" + hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        groups.setdefault(key, []).append(comparison)
    outcomes = sum(quarantine.counts.values(), Counter())
    read = outcomes.pop("read")
    others = "".join(f", {count} {name}" for name, count in outcomes.items())
    print(f"{read} judgements: {sum(map(len, groups.values()))} of {len(groups)} prompts kept{others}")
    return groups


def merge(folder: Path, out: Path) -> None:
    """Writes one native record for each prompt."""
    groups = by_prompt(folder, Quarantine(f"{out}.quarantine.jsonl"))
    with out.open("w", encoding="utf-8") as file:
        for key, group in groups.items():
            responses = list(dict.fromkeys(response for comparison in group for response in comparison.responses))
            number = {response: k for k, response in enumerate(responses)}
            preferences = tuple(
                Preference(number[c.responses[p.winner]], number[c.responses[p.loser]], p.p)
                for c in group
                for p in c.preferences
            )
            merged = Comparison(group[0].prompt, tuple(responses), preferences, id=key, source="alpaca_eval")
            file.write(json.dumps(to_record(merged)) + "\n")
    print(f"-> {out}")


def compare(folder: Path, merged: Path, rewards: Path, out: Path | None) -> None:
    """Prints, and writes, the accuracy of the model and of both rules, and their paired differences."""
    table = pq.read_table(rewards).to_pylist()
    scored = {row["id"]: row["rewards"] for row in table}
    groups = by_prompt(folder, Quarantine())
    records = {r["id"]: r for r in map(json.loads, merged.read_text(encoding="utf-8").splitlines())}
    if missing := [key for key in scored if key not in records or key not in groups]:
        raise UserError(
            f"{rewards}: {missing[0]} is in neither {merged} nor {folder}; give what the model was scored on"
        )
    rows, ties = [], 0
    for key, values in scored.items():
        number = {text: k for k, text in enumerate(records[key]["responses"])}
        points = np.zeros(4)
        for comparison in groups[key]:
            reference, other = (response[-1].content for response in comparison.responses)
            reward = [values[number[reference]], values[number[other]]]
            preferred = comparison.preferences[0].winner
            ties += reward[0] == reward[1]
            length = (len(reference) > len(other)) - (len(reference) < len(other))
            points += [
                1,
                reward[preferred] > reward[1 - preferred],
                0.5 if length == 0 else (length > 0) == (preferred == 0),
                preferred == 0,
            ]
        rows.append(points)
    counts = np.array(rows)
    names = ["model", "longer wins", "reference wins", "model - longer wins", "model - reference wins"]

    def rule(draws: np.ndarray) -> np.ndarray:
        model, longer, reference = ratio(draws, counts[:, 1:], np.repeat(counts[:, :1], 3, axis=1)).T
        return 100 * np.stack([model, longer, reference, model - longer, model - reference], -1)

    values = estimate(rule, len(counts))
    low, high = bootstrap(rule, len(counts))
    print(f"{int(counts[:, 0].sum())} held-out pairs of {len(counts)} prompts, {ties} ties of the model")
    result = {"pairs": int(counts[:, 0].sum()), "prompts": len(counts), "ties": ties}
    for name, value, lowest, highest in zip(names, values, low, high, strict=True):
        print(f"{name:24} {value:6.2f}  [{lowest:.2f}, {highest:.2f}]")
        result[name] = {"value": float(value), "low": float(lowest), "high": float(highest)}
    if out is not None:
        out.write_text(json.dumps(result, indent=2) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["merge", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--merged", type=Path)
    parser.add_argument("--rewards", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    if args.step == "merge":
        merge(args.folder, args.out or parser.error("merge needs --out"))
    else:
        if args.merged is None or args.rewards is None:
            parser.error("compare needs --merged and --rewards")
        compare(args.folder, args.merged, args.rewards, args.json)


if __name__ == "__main__":
    sys.exit(run_command(main))
