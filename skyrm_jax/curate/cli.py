"""`skyrm curate STEP --config FILE`."""

import sys
from pathlib import Path

from rich.console import Console

from skyrm_jax.errors import UserError

STEPS = {
    "preprocess": "sources to a pool: duplicates, contradictions, benchmark prompts out",
    "attributes": "attributes of every pair of the pool (optional)",
    "stage1": "the loop of people, annotators and the reward model",
    "stage2": "the pass over everything",
    "measure": "models trained on each stage's pairs, and their figures (optional)",
    "report": "the curation so far as report.html and report.json",
    "run": "preprocess, stage1, stage2 and report, going on where it was stopped",
    "answers": "bring people's answers to the batch that waits for them",
}


def usage() -> str:
    """The text of `skyrm curate --help`."""
    lines = "\n".join(f"  {name:<12}{text}" for name, text in STEPS.items())
    return (
        "usage: skyrm curate STEP --config FILE [--section.key VALUE ...]\n"
        "       skyrm curate answers FILE [FILE ...] --config FILE\n\n"
        "Curate preference pairs with people and models, in two stages.\n\n"
        f"steps:\n{lines}\n\n`skyrm curate run --help` lists the options."
    )


def main(arguments: list[str] | None = None) -> None:
    """The command. Raises UserError for anything the user can mend, Interrupted where people have to answer first."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    step, *rest = arguments
    if step not in STEPS:
        raise UserError(f"there is no step {step!r}: choose from {', '.join(STEPS)}")
    # Imported here: they bring JAX, which the lines above do not need.
    from skyrm_jax.curate import run as steps
    from skyrm_jax.curate.config import parse_curate_config
    from skyrm_jax.curate.workspace import Workspace

    files: list[Path] = []
    while step == "answers" and rest and not rest[0].startswith("-"):
        files.append(Path(rest.pop(0)))
    config = parse_curate_config(rest)
    console = Console()
    if step == "run":
        steps.run(config, console)
    elif step == "answers":
        if not files:
            raise UserError("give the files of answers right after `answers`")
        steps.take_answers(Workspace(config), files, console)
    else:
        {
            "preprocess": steps.step_preprocess,
            "attributes": steps.step_attributes,
            "stage1": steps.step_stage1,
            "stage2": steps.step_stage2,
            "measure": steps.step_measure,
            "report": steps.step_report,
        }[step](Workspace(config), console)
