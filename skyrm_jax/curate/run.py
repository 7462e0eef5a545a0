"""The steps of a curation, alone or in their order."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from rich.console import Console

from skyrm_jax.curate import labelling, passes, people, stage1, stage2
from skyrm_jax.curate.annotators import Calls
from skyrm_jax.curate.config import CurateConfig
from skyrm_jax.curate.facts import facts
from skyrm_jax.curate.measure import measure
from skyrm_jax.curate.preprocess import preprocess
from skyrm_jax.curate.workspace import Workspace
from skyrm_jax.errors import UserError
from skyrm_jax.report.curation_page import curation_page, print_curation
from skyrm_jax.report.files import whole


def run(config: CurateConfig, console: Console | None = None, ask: people.People | None = None) -> Workspace:
    """The whole curation, going on where it was stopped.

    Args:
        ask: has a batch verified by people and leaves their answers beside it; without, the curation stops at every batch
            until answers are brought.

    Raises:
        UserError: whatever the user can mend; Interrupted: people have not answered, or SIGTERM has come. The same call
            goes on from there, and repeats no paid call.
    """
    console = console or Console()
    work = Workspace(config)
    step_preprocess(work, console)
    step_stage1(work, console, ask)
    step_stage2(work, console)
    step_report(work, console)
    return work


def step_preprocess(work: Workspace, console: Console) -> None:
    """Sources to a pool of pairs."""
    preprocess(work.config.preprocess, work.root, work.config.engine, console)


def step_attributes(work: Workspace, console: Console) -> None:
    """Attributes of every pair of the pool, not only of those that stage 1 looks at: its search then goes by them too."""
    if work.config.attributes is None:
        raise UserError("attributes is null in the configuration; give its options, or leave this step out")
    require_pool(work)
    with annotators(work, console) as calls:
        if calls is None:
            raise UserError("attributes are given by annotators; give some")
        for part in passes.parts(work.pool):
            path = work.attributes / part.name
            if not path.is_file():
                pairs = [pair for chunk in passes.read_pairs(part) for pair in chunk]
                labelling.attributes_of(calls, pairs, work.config, path, console)


def step_stage1(work: Workspace, console: Console, ask: people.People | None = None) -> None:
    """The loop of people, annotators and the reward model."""
    require_pool(work)
    with annotators(work, console) as calls:
        stage1.run(work, calls, ask, console)


def step_stage2(work: Workspace, console: Console) -> None:
    """The pass over everything."""
    last = work.config.stage1.iterations
    if not work.iteration(last).finished:
        raise UserError(f"{work.root}: stage 1 has not finished iteration {last}; run the step stage1 first")
    with annotators(work, console) as calls:
        stage2.run(work, calls, console)


def step_measure(work: Workspace, console: Console) -> None:
    """Models trained on every stage, and their figures."""
    require_decisions(work)
    measure(work, console)


def step_report(work: Workspace, console: Console) -> None:
    """The curation so far as report.json and report.html."""
    told = facts(work)
    with whole(work.root / "report.json") as temporary:
        temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    curation_page(work.root / "report.html", told)
    print_curation(console, told)
    console.print(f"the page is {work.root / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def take_answers(work: Workspace, files: list[Path], console: Console) -> None:
    """Brings people's answers to the batch that waits for them."""
    if work.config.humans is None:
        raise UserError("humans is null in the configuration: there is no batch")
    for number in range(work.config.stage1.iterations + 1):
        iteration, name = work.iteration(number), f"iteration-{number:02d}"
        if (iteration.folder / "people" / f"{name}.jsonl").is_file() and not iteration.file("gold").is_file():
            imported = people.take(iteration.folder / "people", name, files, work.config.humans)
            agreement = imported.agreement
            alpha = (
                "" if agreement is None or agreement.alpha is None else f"; Krippendorff's alpha {agreement.alpha:.2f}"
            )
            console.print(
                f"batch {name}: {len(imported.verified)} pairs are verified, {len(imported.waiting)} wait{alpha}",
                highlight=False,
            )
            return
    raise UserError(f"{work.root}: no batch waits for answers")


def require_pool(work: Workspace) -> None:
    """Raises UserError if preprocessing is not done."""
    if not (work.root / "preprocess" / "report.json").is_file():
        raise UserError(f"{work.root}: there is no pool yet; run the step preprocess first")


def require_decisions(work: Workspace) -> None:
    """Raises UserError if stage 2 is not done."""
    if not passes.is_whole(work.stage2 / "decisions", work.pool):
        raise UserError(f"{work.root}: not all pairs are decided on yet; run the step stage2 first")


@contextmanager
def annotators(work: Workspace, console: Console) -> Iterator[Calls | None]:
    """The annotators, or None if there are none, for a step that is the only one to write to the folder meanwhile."""
    config = work.config
    say = partial(console.print, markup=False, highlight=False)
    asked = Calls(work.calls, config.annotators, config.budget, say) if config.annotators else nullcontext()
    with asked as calls:  # open in one process at a time
        work.remove_unfinished()
        yield calls
