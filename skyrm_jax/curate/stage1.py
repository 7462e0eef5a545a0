"""Stage 1: people, annotators and a reward model that shows where to look next. Read `iterate` top to bottom.

Source: the paper's section 3.2. Verified pairs (gold) choose the reward model's checkpoint and are shown to annotators as
examples; pairs on which annotators agree with the data (silver) train it. Each iteration looks for pairs like those gold
pairs of which the model is least sure, has annotators label them, and people verify the first of them.

    iterations/NN/model/              the reward model, trained on silver, and its best checkpoint on gold (from iteration 1)
    iterations/NN/selected.parquet    the pairs looked at, and why
    iterations/NN/attributes.parquet  their attributes
    iterations/NN/votes.parquet       every vote of every annotator, and
    iterations/NN/labels.parquet      what they come to
    iterations/NN/people/             the batch that people verify, and their answers
    iterations/NN/gold.parquet        what they said
    iterations/NN/summary.json        the iteration in numbers; written last
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool
from rich.console import Console

from skyrm_jax.curate import labelling, passes, people, retrieval, training
from skyrm_jax.curate.annotators import Calls
from skyrm_jax.curate.attributes import NAMES, Attributes
from skyrm_jax.curate.engine import write_table
from skyrm_jax.curate.gold import Gold
from skyrm_jax.curate.humans.queue import Waiting, first
from skyrm_jax.curate.pair import SCHEMA, Pair
from skyrm_jax.curate.workspace import GOLD, SELECTED, Iteration, Workspace, float_column, labelled
from skyrm_jax.data.writing import write_durably
from skyrm_jax.embedder import Embedder
from skyrm_jax.scorer import Scorer


@dataclass(frozen=True)
class Selected:
    """The pairs that an iteration looks at: pool rows, and how each was found (see `workspace.SELECTED`)."""

    pairs: list[Pair]
    found_by: list[str | None]
    rank: list[int]
    similarity: list[float | None]


def run(work: Workspace, calls: Calls | None, ask: people.People | None, console: Console) -> None:
    """All iterations; those that are finished are passed over.

    Raises:
        UserError: whatever the user can mend, such as a spent budget: the same call goes on from there.
        Interrupted: people have not answered yet.
    """
    for number in range(work.config.stage1.iterations + 1):
        iteration = work.iteration(number)
        if not iteration.finished:
            console.print(f"stage 1, iteration {number} of {work.config.stage1.iterations}", style="bold")
            iterate(work, number, calls, ask, console)


def iterate(work: Workspace, number: int, calls: Calls | None, ask: people.People | None, console: Console) -> None:
    """One iteration."""
    config, iteration = work.config, work.iteration(number)
    iteration.folder.mkdir(parents=True, exist_ok=True)
    free = unseen(work, number)
    # With nothing left to look at no model is needed either.
    best = None if number == 0 or not free.any() else reward_model(work, number, iteration.model, console)
    gold = Gold(work.gold(number), lambda: embedder_of(work, best))

    if not iteration.file("selected").is_file():
        scorer = None if best is None else load_scorer(work, best.checkpoint)
        selected = select(work, number, free, gold, scorer, console)
        _write_selected(iteration, selected, scorer)
    pairs = iteration.selected()
    attributes = labelling.attributes_of(calls, pairs, config, iteration.file("attributes"), console)
    items = gold.items(pairs, attributes, config.judge.examples)
    labelling.verdicts_of(
        calls, items, len(pairs), config, iteration.file("votes"), iteration.file("labels"), "votes", console
    )
    if config.humans is not None and not iteration.file("gold").is_file():
        verified(work, number, pairs, attributes, calls, ask)
    facts = summary(work, number, best)
    write_durably(iteration.summary, json.dumps(facts, indent=2) + "\n")
    console.print({name: value for name, value in facts.items() if not isinstance(value, dict)}, highlight=False)


def reward_model(work: Workspace, number: int, folder: Path, console: Console) -> training.Checked:
    """The model trained on the silver of all iterations before `number`, by its best checkpoint on their gold."""
    return training.train(work.config.reward_model, work.silver(number), labelled(work.gold(number)), folder, console)


def load_scorer(work: Workspace, checkpoint: str) -> Scorer:
    """The scorer of a reward model of this curation."""
    return training.load(work.config.reward_model, checkpoint)


def embedder_of(work: Workspace, best: training.Checked | None) -> Embedder | None:
    """What finds similar pairs; in iteration 0 there may be nothing."""
    options = work.config.embedder
    source = options.checkpoint or (None if best is None else best.checkpoint)
    if source is None:
        return None
    longest = options.max_tokens
    rows = max(longest, training.ROW)
    return Embedder.load(source, template=options.template, max_tokens=longest, row_tokens=rows, dtype=options.dtype)


def unseen(work: Workspace, number: int) -> Bool[np.ndarray, "n"]:
    """Which rows of the pool the iteration may look at: pairs that no earlier one has looked at, of prompts that are not
    gold. Another pair of a gold prompt, of all the most similar to it, could be neither silver nor gold."""
    ids = pa.array(sorted(work.selected_ids(number)), pa.string())
    prompts = pa.array(sorted({one.pair.prompt_key for one in work.gold(number)}), pa.string())
    taken = []
    for part in passes.parts(work.pool):
        rows = pq.read_table(part, columns=["id", "prompt_key"])
        found = pc.or_(pc.is_in(rows["id"], value_set=ids), pc.is_in(rows["prompt_key"], value_set=prompts))
        taken.append(found.to_numpy())
    return ~np.concatenate(taken)


def select(
    work: Workspace,
    number: int,
    free: Bool[np.ndarray, "n"],
    gold: Gold,
    scorer: Scorer | None,
    console: Console,
) -> Selected:
    """The pairs of the pool that this iteration looks at, of those that are `free`."""
    options = work.config.stage1
    limit = options.first if number == 0 else options.pairs
    if scorer is None or options.retrieval == "random" or not gold.examples or gold.embedder is None:
        rng = np.random.default_rng([work.config.seed, number])
        rows = np.sort(rng.choice(np.flatnonzero(free), min(limit, int(free.sum())), replace=False)).tolist()
        nothing: list[Any] = [None] * len(rows)
        return Selected(passes.take(work.pool, rows), nothing, [0] * len(rows), nothing)
    margins = training.margins_of(scorer, [pair.comparison() for pair in labelled(gold.examples)])
    p = passes.sigmoid(margins)
    counts = retrieval.neighbours(p, options.neighbours)
    # Compared are vectors of one kind: with attributes only where the pool has them too.
    attributes = work.attributes if passes.is_whole(work.attributes, work.pool) else None
    folder = work.root if work.config.embedder.checkpoint else work.iteration(number).folder
    folder = folder / ("vectors" if attributes is None else "vectors-attributes")
    passes.embed(gold.embedder, work.pool, attributes, folder, "vectors of the pool", console)
    pool = passes.Vectors(folder, passes.parts(work.pool))
    found, similarity = retrieval.top_k(gold.vectors(attributes is not None), pool, options.neighbours, free)
    chosen = sorted(retrieval.select(found, counts, np.argsort(p, kind="stable").tolist(), limit))
    return Selected(
        passes.take(work.pool, [row for row, _, _ in chosen]),
        [gold.examples[query].pair.id for _, query, _ in chosen],
        [rank for _, _, rank in chosen],
        [float(similarity[query, rank]) for _, query, rank in chosen],
    )


def _write_selected(iteration: Iteration, selected: Selected, scorer: Scorer | None) -> None:
    pairs, p = selected.pairs, None
    if scorer is not None and pairs:
        p = passes.sigmoid(training.margins_of(scorer, [pair.comparison() for pair in pairs]))
    table = pa.Table.from_pylist([pair.row() for pair in pairs], SCHEMA)
    for name, values in (("found_by", selected.found_by), ("rank", selected.rank), ("similarity", selected.similarity)):
        table = table.append_column(name, pa.array(values, SELECTED.field(name).type))
    write_table(iteration.file("selected"), table.append_column("p", float_column(p, len(pairs))))


def verified(
    work: Workspace,
    number: int,
    pairs: Sequence[Pair],
    attributes: Mapping[str, Attributes],
    calls: Calls | None,
    ask: people.People | None,
) -> None:
    """Has people verify the first of the pairs and writes what they say to the iteration's gold."""
    config, iteration = work.config, work.iteration(number)
    assert config.humans is not None
    p = pq.read_table(iteration.file("selected"), columns=["p"])["p"].to_pylist()
    # Of a pair that is there with both labels too, people see one.
    once = {pair.contents: (pair, sure) for pair, sure in zip(pairs, p, strict=True)}
    waiting = [Waiting(pair, attributes.get(pair.id), sure) for pair, sure in once.values()]
    if not waiting:
        write_table(iteration.file("gold"), GOLD.empty_table())
        return
    if calls is not None and config.humans.reveal:
        waiting = first(waiting, config.humans.budget)
        opinions = labelling.opinions_of(calls, iteration.file("votes"), {one.pair.id for one in waiting})
        waiting = [replace(one, opinions=opinions.get(one.pair.id, ())) for one in waiting]
    folder, name = iteration.folder / "people", f"iteration-{number:02d}"
    imported = people.ask(folder, name, waiting, config.humans, config.enough, ask)
    of_id = {pair.id: pair for pair in pairs}
    rows = []
    for one in imported.verified:
        final = one.attributes or attributes.get(one.pair_id)
        values = dict.fromkeys(NAMES) if final is None else final.row()
        rows.append(of_id[one.pair_id].row() | {"verdict": one.verdict, "people": list(one.annotators)} | values)
    write_table(iteration.file("gold"), pa.Table.from_pylist(rows, GOLD))


def summary(work: Workspace, number: int, best: training.Checked | None) -> dict[str, Any]:
    """The iteration in numbers: what was looked at and what became of it, here and so far."""
    iteration = work.iteration(number)
    gold, verdicts = iteration.gold(), iteration.verdicts()
    seen = {one.pair.id for one in gold}
    pairs = iteration.selected()
    return {
        "iteration": number,
        "pairs": len(pairs),
        "verified": len(gold),
        "people": dict(Counter(one.verdict for one in gold)),
        "annotators": dict(Counter(verdicts.get(pair.id, "unlabelled") for pair in pairs)),
        "annotators_unverified": dict(
            Counter(verdicts.get(pair.id, "unlabelled") for pair in pairs if pair.id not in seen)
        ),
        "gold_so_far": len(work.gold(number + 1)),
        "silver_so_far": len(work.silver(number + 1)),
        "best_checkpoint": None if best is None else best.checkpoint,
        "best_accuracy_on_gold": None if best is None or not best.pairs else best.accuracy,
    }
