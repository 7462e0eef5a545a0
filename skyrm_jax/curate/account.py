"""What became of every record and pair on the way to the pool: numbers that add up, or an error."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from skyrm_jax.curate.ingest import USED, Part
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import IDENTICAL, UNDECIDED

REASONS = ("identical", "duplicate", "contradictory", "contaminated", "near_duplicate")

PAIRS = ("preferences", "undecided_preferences", "pairs")
"""What the account says of the preferences of used records."""

WORDS = {
    "records": "records",
    "bad": "bad",
    "undecided": "ties and records without a label",
    "identical_responses": "identical responses",
    "used": "used",
    "preferences": "preferences in these",
    "undecided_preferences": "ties among these",
    "pairs": "pairs",
    "identical": "identical sides",
    "duplicate": "repeat an earlier pair",
    "contradictory": "contradict each other",
    "contaminated": "prompt in a benchmark or held-out file",
    "near_duplicate": "prompt nearly that of an earlier pair",
    "kept": "kept",
}
"""The account in words."""


def account(
    parts: Sequence[Part], counts: Mapping[str, Mapping[str, int]], divided: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """`funnel`, the same for each of `files`, and `bad`, bad records by what is wrong with them.

    records = bad + undecided + identical_responses + used; preferences (of used records) = undecided_preferences + pairs;
    pairs = one number for each of REASONS + kept; contaminated is the sum of contaminated_by, in which a pair counts for the
    first set that it shares something with.

    Raises:
        AssertionError: something was lost.
    """
    files: dict[str, dict[str, Any]] = {}
    faults: Counter[str] = Counter()
    for file, outcomes in counts.items():
        bad = {name.removeprefix(Quarantine.BAD): n for name, n in outcomes.items() if name.startswith(Quarantine.BAD)}
        faults.update(bad)
        named = {"undecided": UNDECIDED, "identical_responses": IDENTICAL, "used": USED}
        records = {"records": outcomes["read"], "bad": sum(bad.values())}
        records |= {name: outcomes.get(outcome, 0) for name, outcome in named.items()}
        files[file] = records | dict.fromkeys((*PAIRS, *REASONS), 0) | {"contaminated_by": Counter(), "kept": 0}
    for part in parts:
        of_file = files[part.file]
        of_file["preferences"] += part.pairs + part.undecided
        of_file["undecided_preferences"] += part.undecided
        of_file["pairs"] += part.pairs
    for one in divided:
        of_file = files[one["file"]]
        of_file["kept"] += one["kept"]
        of_file["contaminated_by"].update(one["by_set"])
        for reason, n in one["reasons"].items():
            of_file[reason] += n
    for file, told in files.items():
        _check(file, told)
    names = [name for name in next(iter(files.values())) if name != "contaminated_by"]
    funnel: dict[str, Any] = {name: sum(told[name] for told in files.values()) for name in names}
    funnel["contaminated_by"] = sum((told["contaminated_by"] for told in files.values()), Counter())
    _check("all files", funnel)
    return {"funnel": funnel, "files": files, "bad": dict(faults.most_common())}


def _check(what: str, told: Mapping[str, Any]) -> None:
    """Raises AssertionError unless the numbers add up."""
    sums = {
        "records": ("bad", "undecided", "identical_responses", "used"),
        "preferences": ("undecided_preferences", "pairs"),
        "pairs": (*REASONS, "kept"),
    }
    wrong = [whole for whole, shares in sums.items() if told[whole] != sum(told[share] for share in shares)]
    if told["contaminated"] != sum(told["contaminated_by"].values()):
        wrong.append("contaminated")
    if wrong:
        raise AssertionError(f"{what}: {', '.join(wrong)} do not add up: {dict(told)}")


def show(report: Mapping[str, Any], console: Console) -> None:
    """Prints the account."""
    funnel = report["funnel"]
    table = Table("", "number", title="From records to the pool")
    table.columns[1].justify = "right"
    for name, words in WORDS.items():
        table.add_row(words, f"{funnel[name]:,}", style="bold" if name in ("records", "pairs", "kept") else None)
        if name == "contaminated":
            for one, n in funnel["contaminated_by"].items():
                table.add_row(f"  of these first by {one}", f"{n:,}")
        if name in ("used", "pairs"):
            table.add_section()
    console.print(table)
    if report["bad"]:
        faults = Table("bad records", "number")
        for fault, n in report["bad"].items():
            faults.add_row(fault, f"{n:,}")
        console.print(faults)
    sets = Table(
        "kept out", "prompts", "n-grams", "short prompts", "pairs left out", title="Benchmarks and held-out files"
    )
    for name, facts in report["contamination"].items():
        numbers = [facts[key] for key in ("prompts", "ngrams", "short_prompts", "pairs")]
        sets.add_row(
            name, *(f"{n:,}" if facts["found"] else "not found" if key == 0 else "" for key, n in enumerate(numbers))
        )
    console.print(sets)
