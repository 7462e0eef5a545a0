"""Stage 2: two reward models and the annotators judge every pair; no people.

Source: the paper's section 3.3. Part by part of the pool, so that it may be of any size:

    stage2/best/                  the best reward model: trained on all silver, its best checkpoint on all gold
    stage2/gold/                  the gold model: trained on all gold
    stage2/scores-best/part-*     rewards by the one, and
    stage2/scores-gold/part-*     by the other
    stage2/votes/part-*           annotators' votes on pairs that the best model is not sure of, and
    stage2/labels/part-*          what they come to
    stage2/decisions/part-*       what becomes of every pair, with every opinion that made it so: `decisions.SCHEMA`
    stage2/earlier.parquet        what stage 1 has found out of pairs: people's and annotators' verdicts
    final/filtered/part-*         pairs that are kept, and
    final/corrected/part-*        these and the pairs turned round: files for `skyrm train`; none for a part without any
    stage2/iterations.json        after how many iterations of stage 1 all this was made
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from skyrm_jax.curate import labelling, passes, stage1, training
from skyrm_jax.curate.annotators import Calls
from skyrm_jax.curate.decisions import FLIPPED, KEPT, VERDICTS, Opinions, Rule, table
from skyrm_jax.curate.engine import each, write_table
from skyrm_jax.curate.gold import Gold
from skyrm_jax.curate.pair import SCHEMA, Pair
from skyrm_jax.curate.workspace import Workspace, labelled
from skyrm_jax.errors import UserError

FINAL = pa.unify_schemas([SCHEMA, pa.schema([("decision", pa.string()), ("by", pa.string())])])
"""Columns of the final pairs, labels turned round where that was decided; `id` is that of the pair in the pool."""


def run(work: Workspace, calls: Calls | None, console: Console) -> None:
    """The whole stage; what is finished is not done again. Raises as `stage1.run` does."""
    last = work.config.stage1.iterations + 1
    work.begin_stage2()
    best = stage1.reward_model(work, last, work.stage2 / "best", console)
    passes.score(lambda: stage1.load_scorer(work, best.checkpoint), work.pool, scores(work, "best"), "best", console)
    if work.config.humans is not None:
        gold = gold_model(work, last, console)
        passes.score(
            lambda: stage1.load_scorer(work, gold.checkpoint), work.pool, scores(work, "gold"), "gold", console
        )
    if work.config.stage2.annotate and work.config.stage2.rule.needs_annotators and calls is not None:
        annotate(work, last, calls, best, console)
    decide(work, last, console)


def gold_model(work: Workspace, last: int, console: Console) -> training.Checked:
    """The model trained on all pairs that people decided."""
    gold = work.gold(last)
    if not gold:
        raise UserError(
            f"{work.root}: people have decided no pair, so that there is no gold model; have some verified, or set "
            "humans to null and stage2.rule.keep to best_or_annotators"
        )
    return training.train(work.config.gold_model, labelled(gold), [], work.stage2 / "gold", console)


def scores(work: Workspace, model: str) -> Path:
    """Where the rewards of `best` or `gold` are."""
    return work.stage2 / f"scores-{model}"


def annotate(work: Workspace, last: int, calls: Calls, best: training.Checked, console: Console) -> None:
    """Asks annotators about the pairs that the best model is not sure of, and that nobody has judged yet."""
    config, rule = work.config, work.config.stage2.rule
    gold = Gold(work.gold(last), lambda: stage1.embedder_of(work, best))
    judged = {id for one in work.before(last) for id in one.verdicts()} | {one.pair.id for one in gold.examples}
    for part in passes.parts(work.pool):
        labels = work.stage2 / "labels" / part.name
        if labels.is_file():
            continue
        doubtful = np.flatnonzero(rule.doubtful(passes.p_of(scores(work, "best") / part.name)))
        rows = pq.read_table(part, columns=SCHEMA.names).take(pa.array(doubtful))
        pairs = [pair for pair in map(Pair.of_row, rows.to_pylist()) if pair.id not in judged]
        attributes = labelling.attributes_of(calls, pairs, config, work.stage2 / "attributes" / part.name, console)
        items = gold.items(pairs, attributes, config.judge.examples)
        votes = work.stage2 / "votes" / part.name
        labelling.verdicts_of(calls, items, len(pairs), config, votes, labels, f"votes, {part.stem}", console)


@dataclass(frozen=True)
class Part:
    """What the decisions on a part of the pool are made from; paths and plain values."""

    rule: Rule
    pool: Path
    best: Path
    gold: Path | None
    labels: Path | None
    earlier: Path
    decisions: Path
    filtered: Path
    corrected: Path


def decide(work: Workspace, last: int, console: Console) -> None:
    """Applies the rule to every part of the pool."""
    work.config.engine.start()
    earlier = work.stage2 / "earlier.parquet"
    write_table(earlier, _earlier(work, last))
    parts = passes.parts(work.pool)
    tasks = [part_of(work, part, earlier) for part in parts]
    todo = [task for task in tasks if not task.decisions.is_file()]
    for done, _ in enumerate(each(decide_part, todo, processes=False), 1):
        if done % 100 == 0:
            console.print(f"decisions: {done} of {len(todo)} parts", highlight=False)


def part_of(work: Workspace, part: Path, earlier: Path) -> Part:
    """The decisions to make on a part of the pool."""
    gold, labels = scores(work, "gold") / part.name, work.stage2 / "labels" / part.name
    return Part(
        work.config.stage2.rule,
        part,
        scores(work, "best") / part.name,
        gold if work.config.humans is not None else None,
        labels if labels.is_file() else None,
        earlier,
        work.stage2 / "decisions" / part.name,
        work.final / "filtered" / part.name,
        work.final / "corrected" / part.name,
    )


def _earlier(work: Workspace, last: int) -> pa.Table:
    """What stage 1 has found out: people's and annotators' verdicts by id of the pair."""
    people = {one.pair.id: str(one.verdict) for iteration in work.before(last) for one in iteration.gold()}
    annotators: dict[str, str] = {}
    for iteration in work.before(last):
        annotators |= dict(iteration.verdicts())
    ids = sorted({*people, *annotators})
    columns = [ids, [people.get(id) for id in ids], [annotators.get(id) for id in ids]]
    return pa.table(columns, schema=pa.schema([(name, pa.string()) for name in ("id", "human", "annotators")]))


def decide_part(part: Part) -> int:
    """Decides on the pairs of a part and writes them to where they belong; how many there are.

    Raises UserError if the scores are not those of the part's pairs.
    """
    pairs = pq.read_table(part.pool, columns=SCHEMA.names).combine_chunks()
    ids = pairs["id"].combine_chunks()
    earlier = pq.read_table(part.earlier)
    asked = earlier.select(["id", "annotators"]).filter(pc.is_valid(earlier["annotators"]))
    if part.labels is not None:
        labels = pq.read_table(part.labels, columns=["id", "verdict"]).rename_columns(["id", "annotators"])
        asked = pa.concat_tables([asked, labels.filter(pc.is_valid(labels["annotators"]))])
    annotators, was_asked = _looked_up(ids, asked["id"], asked["annotators"])
    seen = earlier.filter(pc.is_valid(earlier["human"]))
    human, was_seen = _looked_up(ids, seen["id"], seen["human"])
    best_p = _p(part.best, ids)
    gold_p = np.full(len(ids), np.nan) if part.gold is None else _p(part.gold, ids)
    decisions = table(ids, part.rule, Opinions(best_p, gold_p, annotators, human, was_asked, was_seen))
    decided = decisions["decision"].to_numpy(zero_copy_only=False)
    final = pairs.append_column("decision", decisions["decision"]).append_column("by", decisions["by"])
    kept = final.filter(pa.array(decided == KEPT)).cast(FINAL)
    turned = _turned(final.filter(pa.array(decided == FLIPPED))).cast(FINAL)
    for path, rows in ((part.filtered, kept), (part.corrected, pa.concat_tables([kept, turned]))):
        if len(rows):
            write_table(path, rows)
        else:  # nor by an earlier run: `skyrm train` takes no file without a record
            path.unlink(missing_ok=True)
    write_table(part.decisions, decisions)
    return len(ids)


def _p(scores: Path, ids: pa.Array) -> np.ndarray:
    """p of the part's pairs. Raises UserError if the scores are of other pairs."""
    if not pq.read_table(scores, columns=["id"])["id"].combine_chunks().equals(ids):
        raise UserError(f"{scores}: holds the scores of other pairs; remove it, and run the step again")
    return passes.p_of(scores)


def _looked_up(ids: pa.Array, known: pa.ChunkedArray, verdicts: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The verdicts on pairs, as numbers (0 where there is none), and whether there is one."""
    places = pc.index_in(ids, value_set=known.combine_chunks())
    found = pc.is_valid(places).to_numpy(zero_copy_only=False)
    words = verdicts.take(places).to_pylist()
    return np.array([0 if word is None else VERDICTS[word] for word in words], np.int8), found


def _turned(pairs: pa.Table) -> pa.Table:
    """The pairs with their labels turned round."""
    swapped = {"chosen": "rejected", "rejected": "chosen"}
    return pa.table({name: pairs[swapped.get(name, name)] for name in pairs.column_names})
