"""What each stage of a curation is worth: reward models trained on it, and their figures on held-out data.

Source: the paper's figure 7. At each stage three sets of pairs are compared: the pairs looked at so far as they came
(`original`), those of them whose labels stand (`filtered`), and these with the others turned round (`corrected`).
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from skyrm_jax.curate import passes, training
from skyrm_jax.curate.config import Measure
from skyrm_jax.curate.pair import Pair
from skyrm_jax.curate.workspace import Workspace
from skyrm_jax.errors import UserError
from skyrm_jax.report.curation_page import STAGE2
from skyrm_jax.report.files import whole

ARMS = ("original", "filtered", "corrected")


def stage_pairs(work: Workspace, iteration: int) -> dict[str, list[Pair]]:
    """The three sets after an iteration of stage 1.

    People's word stands; pairs that no person has seen are filtered by the annotators' verdict. A pair that either
    finds wrong is turned round in `corrected`, and left out of `filtered`; one that neither has decided is in `original` alone.
    """
    people: dict[str, str] = {}
    annotators: dict[str, str] = {}
    pairs: list[Pair] = []
    for one in work.before(iteration + 1):
        pairs += one.selected()
        people |= {example.pair.id: example.verdict for example in one.gold()}
        annotators |= one.verdicts()
    said = {pair.id: people.get(pair.id, annotators.get(pair.id)) for pair in pairs}
    filtered = [pair for pair in pairs if said[pair.id] == "original"]
    turned = [pair.flipped() for pair in pairs if said[pair.id] == "flipped"]
    return {"original": pairs, "filtered": filtered, "corrected": filtered + turned}


def final_pairs(work: Workspace) -> dict[str, list[Pair]]:
    """The three sets after stage 2: the pool, and what the curation ends with, which may be nothing."""
    final = {name: passes.all_pairs(work.final / name, some=False) for name in ("filtered", "corrected")}
    return {"original": passes.all_pairs(work.pool), **final}


def measure(work: Workspace, console: Console) -> None:
    """Trains and evaluates a model for every arm of every stage into OUT/measure; what is finished is not done again."""
    options = work.config.measure
    if options is None:
        raise UserError("measure is null in the configuration; give measure.held_out or measure.benchmarks")
    numbers = range(work.config.stage1.iterations + 1) if options.stages == "all" else range(0)
    for number in numbers:
        for arm, pairs in stage_pairs(work, number).items():
            arm_of(work, options, f"iteration {number}", arm, pairs, console)
    for arm, pairs in final_pairs(work).items():
        arm_of(work, options, STAGE2, arm, pairs, console)


def arm_of(
    work: Workspace, options: Measure, stage: str, arm: str, pairs: Sequence[Pair], console: Console
) -> dict[str, Any]:
    """The figures of one arm of one stage."""
    folder = folder_of(work, stage, arm)
    path = folder / "figures.json"
    if not path.is_file():
        if not pairs:
            console.print(f"{stage}, {arm}: no pairs yet, so no model", highlight=False)
            return {}
        model = replace(work.config.reward_model, checkpoints=1)
        last = training.train(model, pairs, [], folder / "model", console)
        figures = evaluate(work, options, last.checkpoint, folder / "eval", console)
        with whole(path) as temporary:
            temporary.write_text(
                json.dumps({"stage": stage, "arm": arm, "pairs": len(pairs), **figures}, indent=2) + "\n"
            )
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read


def folder_of(work: Workspace, stage: str, arm: str) -> Path:
    """Where an arm's model and figures are."""
    return work.root / "measure" / stage.replace(" ", "-") / arm


def evaluate(work: Workspace, options: Measure, checkpoint: str, out: Path, console: Console) -> dict[str, Any]:
    """Headlines by set, in percent with their intervals, of `skyrm eval` on a checkpoint."""
    from skyrm_jax.eval.against import RESULTS
    from skyrm_jax.eval.cli import main as run_eval

    model = work.config.reward_model
    data = model.train_config(Path("pairs.jsonl"), Path("run"), 1).data
    given = ["--checkpoint", checkpoint, "--out", str(out), "--dtype", model.dtype]
    given += ["--max-tokens", str(data.max_tokens), *(["--template", data.template] if data.template else [])]
    given += ["--held-out", *options.held_out] if options.held_out else []
    if options.benchmarks:
        given += ["--benchmarks", *options.benchmarks, *(["--data", options.data] if options.data else [])]
    run_eval(given)
    results = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    headlines = {name: headline(result) for name, result in results["results"].items()}
    return {"headlines": headlines, "average": results["average"]}


def headline(result: dict[str, Any]) -> dict[str, float]:
    """The figure that stands for a set, with its interval."""
    section, name = result["headline"]
    figure = result["sections"][section][name]
    return {"value": figure["value"], "low": figure["low"], "high": figure["high"]}


def figures(work: Workspace) -> list[dict[str, Any]]:
    """Those of all arms that are measured, by stage and arm."""
    stages = [f"iteration {number}" for number in range(work.config.stage1.iterations + 1)] + [STAGE2]
    paths = [folder_of(work, stage, arm) / "figures.json" for stage in stages for arm in ARMS]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
