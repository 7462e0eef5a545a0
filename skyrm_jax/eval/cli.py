"""The eval command: load every set, score it, write rewards and figures, print the tables."""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from skyrm_jax.chat import Chat
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.errors import UserError
from skyrm_jax.eval import benchmarks, heldout, options, rewards, scoring, trivial
from skyrm_jax.eval.against import RESULTS, Compared, Earlier
from skyrm_jax.eval.figures import Result
from skyrm_jax.eval.journal import COMPUTED, FINISHED, Journal, together
from skyrm_jax.eval.manifest import manifest
from skyrm_jax.eval.pairs import describe_pairs
from skyrm_jax.eval.sets import BenchmarkSet, EvalSet, Files, held_out_set, score_set
from skyrm_jax.eval.table import Difference
from skyrm_jax.report.eval_page import eval_page
from skyrm_jax.report.eval_runs import runs_of
from skyrm_jax.report.files import whole
from skyrm_jax.report.tables import print_curve, print_differences, print_facts, print_overview, print_result

if TYPE_CHECKING:
    from skyrm_jax.tree_scorer import TreeScorer

PAGE = "report.html"
QUARANTINE, UNFINISHED_QUARANTINE = "held-out.quarantine.jsonl", "held-out.quarantine.unfinished.jsonl"

Scored = dict[str, list[np.ndarray]]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command.

    Raises UserError for anything the user can mend, before the model is loaded where possible.
    """
    args = options.parse(arguments)
    if args.checkpoint is None:
        evaluate(args, Console())
        return
    from skyrm_jax import distributed  # imports JAX, which help and wrong options do not need

    distributed.start()
    with distributed.failing_together():
        if distributed.is_writer():
            evaluate(args, Console())
        else:  # computes with the others, and writes what nobody reads
            with tempfile.TemporaryDirectory() as args.out:
                args.out = Path(args.out)
                evaluate(args, Console(quiet=True))


def evaluate(args: argparse.Namespace, console: Console) -> None:
    """Everything that the options ask for."""
    names, absent = benchmarks.select(args.benchmarks, args.data)
    scoring.require_writable(args.out)
    earlier = [Earlier.read(folder) for folder in args.against]
    sets: list[EvalSet] = [BenchmarkSet(name, args.data) for name in names]
    if args.held_out:
        quarantine = Quarantine(args.out / UNFINISHED_QUARANTINE, args.max_bad_share)
        sets.append(held_out_set(args.held_out, args.form, quarantine))
    for other in earlier:
        for one in sets:
            other.has(one)

    scored, origin = existing(args, sets) if args.from_rewards or args.baseline else made(args, sets, console)
    if scored is not None:
        report(args, console, sets, scored, origin, earlier, absent)
        if args.held_out:
            finish_quarantine(args.out)


def finish_quarantine(out: Path) -> None:
    """Has this run's bad records take the place of an earlier one's, which stand as long as its results do."""
    if (out / UNFINISHED_QUARANTINE).exists():
        (out / UNFINISHED_QUARANTINE).replace(out / QUARANTINE)
    else:
        (out / QUARANTINE).unlink(missing_ok=True)


def contents_of(sets: Sequence[EvalSet]) -> dict[str, str]:
    """The hash of each set's contents."""
    return {one.name: one.facts["content_sha256"] for one in sets}


def existing(args: argparse.Namespace, sets: Sequence[EvalSet]) -> tuple[Scored, dict[str, Any]]:
    """The rewards of a file or a trivial rule, by set, which are written again, and where they are from."""
    contents = contents_of(sets)
    if args.baseline:
        origin = {"baseline": args.baseline}
        rewards.require_room(args.out / FINISHED, origin, contents)
        scored = {one.name: trivial.rewards(args.baseline, one.comparisons) for one in sets}
        write(args.out, origin, sets, scored, {})
        return scored, origin
    file = rewards.RewardFile(args.from_rewards)
    rewards.require_room(args.out / FINISHED, file.origin, contents)
    scored = {}
    computed: dict[str, dict[str, Any]] = {}
    for one in sets:
        if not one.has_ids:
            file.require_same(one.name, contents[one.name])
        scored[one.name] = file.of(one.name, one.comparisons)
        if isinstance(one, Files):
            one.refuse(scored[one.name], args.from_rewards.with_name(QUARANTINE))
        if file.written is not None:
            computed[one.name] = file.written.computed.get(one.name, {})
            # Not what another part counted.
            if file.is_of(one.name, contents[one.name]) and one.name in file.written.counts:
                one.facts["counts"] = file.written.counts[one.name]
    write(args.out, file.origin, sets, scored, computed)
    return scored, {"file": str(args.from_rewards)} | file.origin | together(list(computed.values()))


def write(
    out: Path,
    origin: Mapping[str, Any],
    sets: Sequence[EvalSet],
    scored: Scored,
    computed: Mapping[str, Mapping[str, Any]],
) -> None:
    """Writes the rewards and what made them."""
    made = {
        "origin": origin,
        "contents": contents_of(sets),
        "counts": {one.name: one.facts["counts"] for one in sets if "counts" in one.facts},
        "computed": computed,
    }
    rewards.write(out / FINISHED, {one.name: (one.comparisons, scored[one.name]) for one in sets}, made)


def made(args: argparse.Namespace, sets: Sequence[EvalSet], console: Console) -> tuple[Scored | None, dict[str, Any]]:
    """The rewards of the model, by set, which are written too; None in a process that does not write."""
    from skyrm_jax import distributed

    hashes = {}
    scorer: TreeScorer
    if args.checkpoint:
        scorer = ours = scoring.load_scorer(args, args.checkpoint, args.mesh)
        if distributed.is_writer():
            from skyrm_jax.checkpoint import digest

            hashes["checkpoint_sha256"] = digest(ours.loaded)
    else:
        scorer = endpoint(args)
    origin = scoring.origin(scorer) | hashes
    steady = {name: value for name, value in origin.items() if name not in (*COMPUTED, *scorer.counts)}
    if distributed.is_writer():
        rewards.require_room(args.out / FINISHED, steady, contents_of(sets))
    journal = Journal(args.out, steady)
    scored: Scored = {}
    computed: dict[str, dict[str, Any]] = {}
    for one in sets:
        done = score_set(one, scorer, journal, console)
        scored[one.name], computed[one.name], one.facts["counts"] = done.rewards, done.computed, dict(done.counts)
    if not distributed.is_writer():
        return None, {}
    write(args.out, steady, sets, scored, computed)
    journal.finish([one.name for one in sets])
    return scored, steady | together(list(computed.values()))


def endpoint(args: argparse.Namespace) -> "TreeScorer":
    """The scorer that asks a server."""
    from skyrm_jax.eval.endpoint import Endpoint

    chat = Chat.load(args.tokenizer, pad_of(args.tokenizer), args.template)
    return Endpoint(args.endpoint, chat, form=args.endpoint_form, model=args.endpoint_model, max_tokens=args.max_tokens)


def pad_of(model: str) -> int | None:
    """The pad token id in the config of a model folder or Hub id, if there is one: where a reward is read depends on it.

    Raises UserError if it cannot be fetched or read; a tokenizer alone has none.
    """
    config = Path(model) / "config.json" if Path(model).is_dir() else _config_of(model)
    if config is None or not config.is_file():
        return None
    try:
        found = json.loads(config.read_text(encoding="utf-8"))["pad_token_id"]
    except KeyError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"--tokenizer {model}: {config} is no model's configuration ({error}): fetch it again"
        ) from None
    return found if isinstance(found, int) else None


def _config_of(model: str) -> Path | None:
    """The config.json of a Hub id, None if there is none. Raises UserError if the Hub does not say."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    from skyrm_jax.convert.hf import split_revision

    name, revision = split_revision(model)
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except Exception as error:  # the Hub client raises a dozen kinds, all of them about this id or the network
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        said = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"--tokenizer {model}: is no folder, and as a Hub id its config.json cannot be fetched "
            f"({type(error).__name__}: {said}): check the name and the network, or give a folder"
        ) from None


def report(
    args: argparse.Namespace,
    console: Console,
    sets: Sequence[EvalSet],
    scored: Scored,
    origin: dict[str, Any],
    earlier: Sequence[Earlier],
    absent: Sequence[str],
) -> None:
    """Computes and prints all figures; writes results.json and report.html."""
    usable = {one.name: one.usable(scored[one.name]) for one in sets}
    missing = {one.name: one.missing for one in sets}
    results: dict[str, Result] = {}
    described: dict[str, Any] = {}
    for name, (comparisons, values) in usable.items():
        is_benchmark = name in benchmarks.BENCHMARKS
        result = (benchmarks.BENCHMARKS[name] if is_benchmark else heldout).score(comparisons, values)
        result.partial += missing[name]
        title = benchmarks.BENCHMARKS[name].title if is_benchmark else "Held out"
        results[name] = result
        described[name] = {"title": title, **result.to_dict(), "pairs": describe_pairs(comparisons, values)}
    _, *others = runs_of([{"name": options.name_of(args)}, *(other.results for other in earlier)])
    against = {run.name: other.compared(sets, scored, results) for run, other in zip(others, earlier, strict=True)}
    means = {run.name: other.mean_less(against[run.name], results) for run, other in zip(others, earlier, strict=True)}
    headlines = {name: result.headline_value for name, result in results.items()}
    record = {
        "name": options.name_of(args),
        "manifest": manifest(origin, {one.name: one.facts for one in sets}),
        "results": described,
        "average": benchmarks.average(headlines),
        "average_interval": benchmarks.average_interval(results),
        "absent": list(absent),
        "against": {
            name: {of: asdict(replace(one, drawn=None))["differences"] for of, one in sets.items()}
            for name, sets in against.items()
        },
        "mean_less": {name: asdict(mean) for name, mean in means.items() if mean is not None},
        "compared": {
            name: {of: {"comparisons": one.comparisons, "of": one.of} for of, one in sets.items()}
            for name, sets in against.items()
        },
    }
    with whole(args.out / RESULTS) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    eval_page(args.out / PAGE, [record, *(other.results for other in earlier)])
    show(console, record, results, against, means)
    console.print(f"results in {args.out}, the page is {PAGE}", markup=False, highlight=False, soft_wrap=True)


def show(
    console: Console,
    record: Mapping[str, Any],
    results: Mapping[str, Result],
    against: Mapping[str, Mapping[str, Compared]],
    means: Mapping[str, Difference | None],
) -> None:
    """Prints the tables."""
    for name, result in results.items():
        print_result(console, record["results"][name]["title"], result)
        if name == rewards.HELD_OUT and result.curves:
            print_curve(console, result.curves[heldout.BEST_OF_N])
    for name, compared in against.items():
        print_differences(console, f"{record['name']} less {name}", compared, results, means[name])
    of_benchmarks = {n: r for n, r in results.items() if n in benchmarks.BENCHMARKS}
    if of_benchmarks:
        titles = {name: benchmark.title for name, benchmark in benchmarks.BENCHMARKS.items()}
        mean = None if record["average"] is None else (record["average"], *record["average_interval"])
        print_overview(console, record["name"], titles, of_benchmarks, mean, record["absent"])
    print_facts(console, f"Made from (all of it in {RESULTS})", essentials(record["manifest"], results))


def essentials(facts: Mapping[str, Any], results: Mapping[str, Result]) -> dict[str, Any]:
    """What of the manifest belongs beside the figures on a terminal: what most easily changes them."""
    names = (
        "file",
        "baseline",
        "endpoint",
        "checkpoint",
        "step",
        "compute_dtype",
        "max_tokens",
        "platform",
        "template_hash",
    )
    shown: dict[str, Any] = {name: facts["rewards"].get(name) for name in names}
    for name, described in facts["sets"].items():
        counts = described.get("counts", {})
        shown[name] = {key: described.get(key, counts.get(key)) for key in ("comparisons", "responses")}
        shown[name]["truncated"] = counts.get("truncated")
        shown[name]["dropped"] = counts.get("dropped")
        shown[name]["bad_records"] = described.get("bad_records")
    return shown
