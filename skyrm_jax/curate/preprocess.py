"""Raw comparisons -> a pool of pairs worth curating, with every record and pair that is left out accounted for.

A pair is left out for the first of these reasons that holds:

identical       its two sides are the same
duplicate       an earlier pair has the same history, chosen and rejected
contradictory   another pair has the same texts with the label turned round (both go; see `contradictions`)
contaminated    its prompt shares n-grams with a benchmark or held-out file (`decontaminate`)
near_duplicate  an earlier prompt is nearly the same (`near_duplicates`; all pairs of the earliest one stay)

    out/pool/part-*.parquet              pairs left, in the order of the sources: columns of `ingest.POOL`
    out/preprocess/removed-*.parquet     pairs left out: those columns, `reason`, and `evidence`, a JSON object
    out/preprocess/bad.jsonl             records put aside: bad ones, and those of identical responses
    out/preprocess/report.json           the account

The comparisons of texts run as dataframes of keys; the texts themselves pass through part by part, so that memory grows by
some hundred bytes a pair, whatever the pairs hold. All is made in a hidden folder and moved when it is complete; a run that
was killed goes on from its finished parts and steps.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from skyrm_jax.curate import near_duplicates
from skyrm_jax.curate.account import account, show
from skyrm_jax.curate.decontaminate import benchmark_sets, contaminated, held_out_sets, sets_of, write_index
from skyrm_jax.curate.engine import Engine, each, load_daft, read, sorted_table, write_table
from skyrm_jax.curate.ingest import POOL, Part, ingest, place
from skyrm_jax.curate.near_duplicates import NearDuplicates
from skyrm_jax.curate.ngrams import NgramIndex
from skyrm_jax.data.files import HubDataset, Source, expand
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.data.sources import require_form
from skyrm_jax.data.writing import remove_unfinished, write_durably
from skyrm_jax.errors import UserError
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.folders import locked, made_whole, require_vacant, sync
from skyrm_jax.report.progress import progress

if TYPE_CHECKING:
    from daft import DataFrame

FORMAT = 2
"""Of the parts and the report: what another one began is begun anew."""

REMOVED = pa.unify_schemas([POOL, pa.schema([("reason", pa.string()), ("evidence", pa.string())])])
"""Columns of the pairs left out."""

DECISIONS = pa.schema(
    [
        ("position", pa.int64()),
        ("reason", pa.string()),
        ("other", pa.int64()),
        ("other_id", pa.string()),
        ("similarity", pa.float64()),
        ("sets", pa.string()),
    ]
)
"""Why pairs are left out, by position; `other` is the position of the pair or prompt that they yield to or contradict."""

WORTH_PROCESSES = 32 << 20
"""With fewer bytes the work is done before other processes are up."""


@dataclass(frozen=True)
class Preprocess:
    """What becomes of raw comparisons before they are curated.

    Args:
        sources: files of comparisons (jsonl, jsonl.gz, jsonl.zst, json, parquet), globs, folders, URLs of these (gs://...),
            or Hub data sets (hub://owner/name?config=C&split=S&revision=R). Of equal pairs the first in this order stays.
        root: folder that relative sources and held-out files start from; default: the current one.
        form: shape of the records; `auto` detects it record by record.
        max_bad_share: stop when more than this share of records is bad.
        contradictions: whether pairs that differ in the label alone are all dropped or all kept.
        benchmarks: folder of the benchmarks that no prompt may share an n-gram with; null for none.
        held_out: files of comparisons, in the same forms as sources, that no prompt may share an n-gram with either.
        ngram: words of an n-gram; a Han character, kana or Hangul syllable is a word.
        overlap: how many different n-grams a prompt must share with one benchmark or file to be contaminated.
        short_prompts: whether prompts too short for an n-gram are contaminated by equal ones.
        near_duplicates: how prompts that are nearly the same are found; null keeps them.
    """

    sources: list[str] = field(default_factory=list)
    root: str | None = None
    form: str = "auto"
    max_bad_share: float = 0.05
    contradictions: Literal["drop", "keep"] = "drop"
    benchmarks: str | None = None
    held_out: list[str] = field(default_factory=list)
    ngram: int = 13
    overlap: int = 1
    short_prompts: bool = True
    near_duplicates: NearDuplicates | None = None

    def __post_init__(self) -> None:
        for name, bad, rule in [
            ("max_bad_share", not 0 <= self.max_bad_share <= 1, "must be a share, 0 to 1"),
            ("contradictions", self.contradictions not in ("drop", "keep"), "must be drop or keep"),
            ("ngram", self.ngram < 1, "must be at least 1"),
            ("overlap", self.overlap < 1, "must be at least 1"),
        ]:
            if bad:
                raise UserError(f"preprocess.{name} {rule}: {getattr(self, name)!r}")
        require_form(self.form)


def preprocess(
    options: Preprocess, out: str | os.PathLike[str], engine: Engine, console: Console | None = None
) -> dict[str, Any]:
    """Makes `out`/pool and `out`/preprocess, prints the account, and returns the report.

    What is finished is not made again. The pool, what was left out and the report depend on the options and the files that
    they name, not on the engine.

    Raises:
        UserError: a file or the engine is unusable, too many records are bad, no pair is left, or `out` holds what other
            options or files made.
    """
    console = console or Console()
    out = Path(out).absolute()
    with locked(out / "preprocess"):
        report = _finished(options, out)
        if report is None:
            engine.start()
            report = _Run(options, out, console).make()
    show(report, console)
    console.print(f"pool: {out / 'pool'}; what was left out, and why: {out / 'preprocess'}", soft_wrap=True)
    return report


def _finished(options: Preprocess, out: Path) -> dict[str, Any] | None:
    """The report, if there is one. Raises UserError if other options or files made it."""
    path = out / "preprocess" / "report.json"
    if not path.is_file():
        return None
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    made_of = report["made_of"]
    if made_of["options"] != _recorded(options):
        changed = sorted(name for name, value in _recorded(options).items() if made_of["options"].get(name) != value)
        raise UserError(f"{out}: was made with another {', '.join(changed)}; choose another folder or remove it")
    for name, now in (("sources", _sources), ("held_out", _held_out), ("benchmarks", _benchmarks)):
        try:
            changed = made_of[name] != now(options)
        except UserError:  # they may be gone once the pool is made
            continue
        if changed:
            raise UserError(
                f"{out}: was made with other files (preprocess.{name}) than there are now; choose another folder, or remove it"
            )
    return report


def _recorded(options: Preprocess) -> dict[str, Any]:
    """The options as the report keeps them; where relative files start from may change."""
    kept: dict[str, Any] = json.loads(json.dumps(asdict(options)))
    del kept["root"]
    return kept


def _facts(sources: Sequence[Source]) -> list[dict[str, Any]]:
    return [{"file": source.label, "bytes": source.nbytes} for source in sources]


def _sources(options: Preprocess) -> list[dict[str, Any]]:
    return _facts(expand(options.sources, options.root))


def _held_out(options: Preprocess) -> list[dict[str, Any]]:
    return _facts(expand(options.held_out, options.root)) if options.held_out else []


def _benchmarks(options: Preprocess) -> list[dict[str, Any]]:
    """Raises UserError if the folder is gone."""
    if options.benchmarks is None:
        return []
    folder = Path(options.benchmarks)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    files = {path.relative_to(folder): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    return [
        {"file": path.as_posix(), "bytes": size}
        for path, size in files.items()
        if not any(part.startswith(".") for part in path.parts)  # of a clone
    ]


class _Run:
    """One preprocessing: steps that leave files in a folder, and are passed over where the files are there.

    made_of.json           what the folder is for
    pairs/                 parts of `ingest`
    index.pickle           n-grams of the benchmarks and held-out files
    basis.txt              stands for the parts and n-grams that all below is made of
    firsts/                keys of different pairs
    contaminated.parquet   prompts that have some of them
    prompts.npy, sketch/   of what is left: the earliest position of each prompt, and `near_duplicates.sketch` of them
    near_duplicates.parquet
    decisions.parquet      DECISIONS
    decided/               for each part that was divided by them, the numbers of its pairs
    pool/, preprocess/     to be moved to their places
    """

    def __init__(self, options: Preprocess, out: Path, console: Console) -> None:
        self.options, self.out, self.console = options, out, console
        self.folder = out / ".preprocess.partial"
        self.sources = expand(options.sources, options.root)
        self.held_out = expand(options.held_out, options.root) if options.held_out else []
        self.made_of = {
            "options": _recorded(options),
            "sources": _facts(self.sources),
            "held_out": _facts(self.held_out),
            "benchmarks": _benchmarks(options),
            "format": FORMAT,
        }
        size = sum(source.nbytes for source in self.sources)
        self.processes = size > WORTH_PROCESSES or any(isinstance(source, HubDataset) for source in self.sources)

    def make(self) -> dict[str, Any]:
        """The report of what is then in its place."""
        self._begin()
        done = self.folder / "preprocess" / "report.json"
        if not done.is_file():
            require_vacant(self.out / "pool")
            require_vacant(self.out / "preprocess")
            write_durably(done, json.dumps(self._report(), indent=1, ensure_ascii=False) + "\n")
        return self._publish()

    def _begin(self) -> None:
        """The folder, with what is finished of the same run."""
        note, text = self.folder / "made_of.json", json.dumps(self.made_of)
        if not note.is_file() or note.read_text(encoding="utf-8") != text:
            shutil.rmtree(self.folder, ignore_errors=True)
            (self.folder / "preprocess").mkdir(parents=True)
            write_durably(note, text)

    def _publish(self) -> dict[str, Any]:
        for name in ("pool", "preprocess"):  # the report comes last: with it the work is finished
            if (self.folder / name).exists():
                remove_unfinished(self.folder / name)
                os.replace(self.folder / name, self.out / name)
        sync(self.out)
        shutil.rmtree(self.folder, ignore_errors=True)
        report: dict[str, Any] = json.loads((self.out / "preprocess" / "report.json").read_text(encoding="utf-8"))
        return report

    def _report(self) -> dict[str, Any]:
        """Does the work."""
        sources = [source.resolved() if isinstance(source, HubDataset) else source for source in self.sources]
        revisions = {one.given: one.revision for one in sources if isinstance(one, HubDataset) and one.revision}
        parts, quarantine = self._ingest(sources)
        if not self._paths(parts):
            raise UserError(f"no record of the sources gives a pair: {dict(quarantine.counts)}")
        with self.console.status("reading the benchmarks and held-out files"):
            index, missing = self._index()
        self._forget_unless(parts)
        with self.console.status("comparing pairs"):
            decisions = self._decisions(parts, index)
        divided = self._divide(parts, decisions)
        report: dict[str, Any] = {"made_of": self.made_of, "revisions": revisions}
        report |= account(parts, quarantine.counts, divided) | {"contamination": dict(sets_of(index, missing))}
        hits = sum((Counter(one["hits"]) for one in divided), Counter[str]())
        for name, facts in report["contamination"].items():
            facts["pairs"] = hits[name]
        if not report["funnel"]["kept"]:
            raise UserError(f"no pair is left to curate; see {self.folder / 'preprocess'} ({report['funnel']})")
        return report

    def _ingest(self, sources: Sequence[Source]) -> tuple[list[Part], Quarantine]:
        size = {source.label: source.nbytes for source in sources}
        read: dict[str, int] = {}
        with progress(self.console, "reading, bytes", sum(size.values())) as advance:

            def show(part: Part) -> None:
                far = min(max(part.read, read.get(part.file, 0)), size[part.file])
                advance(far - read.get(part.file, 0))
                read[part.file] = far

            bad = self.folder / "preprocess" / "bad.jsonl"
            options = self.options
            return ingest(
                sources, options.form, options.max_bad_share, self.folder / "pairs", bad, self.processes, show
            )

    def _paths(self, parts: Sequence[Part]) -> list[Path]:
        return [part.path(self.folder / "pairs") for part in parts if part.pairs]

    def _index(self) -> tuple[NgramIndex, list[str]]:
        """The n-grams that no prompt may have, and the benchmarks of which there are none."""
        sets: dict[str, list[str]] = {}
        missing = list(BENCHMARKS)
        if self.options.benchmarks is not None:
            sets, missing = benchmark_sets(Path(self.options.benchmarks))
        sets |= held_out_sets(self.held_out, self.options.form)
        index = NgramIndex.of(sets, self.options.ngram, self.options.short_prompts)
        write_index(self.folder / "index.pickle", index)
        return index, missing

    def _forget_unless(self, parts: Sequence[Part]) -> None:
        """Removes what was made of other parts or n-grams: files may have changed since a run was killed."""
        note, basis = self.folder / "basis.txt", hashlib.blake2b((self.folder / "index.pickle").read_bytes())
        basis.update(json.dumps([vars(part) for part in parts]).encode())
        if note.is_file() and note.read_text(encoding="utf-8") == basis.hexdigest():
            return
        for path in (*self.folder.glob("*.parquet"), *self.folder.glob("preprocess/removed-*")):
            path.unlink()
        for name in ("firsts", "sketch", "decided", "pool"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("decided", "pool"):
            (self.folder / name).mkdir()
        write_durably(note, basis.hexdigest())

    def _decisions(self, parts: Sequence[Part], index: NgramIndex) -> Path:
        """A file of DECISIONS, in the order of the pairs."""
        path = self.folder / "decisions.parquet"
        if path.is_file():
            return path
        col = load_daft().col
        at = col("first").alias("position")
        keys = read(self._paths(parts)).select("position", "id", "contents", "prompt_key", "identical")
        apart = keys.where(~col("identical"))
        alive = self._firsts(apart)
        repeated = alive.where(col("count") > 1).select("id", "first")
        repeats = apart.join(repeated, on="id").where(col("position") != col("first"))
        decided = {
            "identical": keys.where(col("identical")).select("position"),
            "duplicate": repeats.select("position", col("first").alias("other")),
        }
        if self.options.contradictions == "drop":
            decided["contradictory"], alive = _contradictory(alive)
        if index.sets:
            hits = load_daft().from_arrow(self._contaminated(parts))
            decided["contaminated"] = alive.join(hits, on="prompt_key").select(at, "sets")
            alive = alive.join(hits, on="prompt_key", how="anti")
        if self.options.near_duplicates is not None:
            near = load_daft().from_arrow(self._near(parts, alive, self.options.near_duplicates))
            one = alive.select(col("first").alias("other"), col("id").alias("other_id"))
            yielding = alive.select("first", "prompt_key").join(near, on="prompt_key").join(one, on="other")
            decided["near_duplicate"] = yielding.select(at, "other", "other_id", "similarity")
        tables = [_padded(frame.to_arrow(), reason) for reason, frame in decided.items()]
        table = pa.concat_tables(tables).sort_by("position").combine_chunks()
        if len(table) and not (np.diff(table["position"].to_numpy()) > 0).all():
            raise AssertionError("a pair is left out for two reasons")
        write_table(path, table)
        return path

    def _firsts(self, keys: "DataFrame") -> "DataFrame":
        """Of equal pairs the `first` position and how many they are."""
        folder = self.folder / "firsts"
        if not folder.is_dir():
            col = load_daft().col
            columns = [col("contents").any_value(), col("prompt_key").any_value()]
            columns += [col("position").min().alias("first"), col("position").count().alias("count")]
            with made_whole(folder) as partial:
                keys.groupby("id").agg(*columns).write_parquet(str(partial))
        return read(sorted(folder.iterdir()))

    def _contaminated(self, parts: Sequence[Part]) -> pa.Table:
        """`prompt_key` and `sets` of the prompts of all pairs that are contaminated."""
        path = self.folder / "contaminated.parquet"
        if not path.is_file():
            index = self.folder / "index.pickle"
            found = contaminated(self._paths(parts), index, self.options.overlap, self.processes)
            write_table(path, sorted_table(found, "prompt_key"))
        return pq.read_table(path)

    def _near(self, parts: Sequence[Part], alive: "DataFrame", options: NearDuplicates) -> pa.Table:
        """Of the prompts to be left out `prompt_key`, `other` (the position of their representative) and `similarity`."""
        path = self.folder / "near_duplicates.parquet"
        if not path.is_file():
            col = load_daft().col
            prompts = sorted_table(alive.groupby("prompt_key").agg(col("first").min().alias("position")), "position")
            positions = prompts["position"].to_numpy()
            wanted, sketch = self.folder / "prompts.npy", self.folder / "sketch"
            if not sketch.is_dir():
                np.save(wanted, positions)
                with made_whole(sketch) as folder:
                    near_duplicates.sketch(self._paths(parts), wanted, options, folder, self.processes)
            found = near_duplicates.clusters(sketch, options.threshold)
            keys = prompts["prompt_key"].take(np.searchsorted(positions, found["position"].to_numpy()))
            columns = {"prompt_key": keys, "other": found["representative"], "similarity": found["similarity"]}
            write_table(path, pa.table(columns))
        return pq.read_table(path)

    def _divide(self, parts: Sequence[Part], decisions: Path) -> list[dict[str, Any]]:
        """Writes pool and removed pairs of every part that has any; what `divide` counted, in order."""
        with_pairs = [part for part in parts if part.pairs]
        labels = self.folder / "labels.json"
        write_durably(labels, json.dumps([source.label for source in self.sources]))
        tasks = [
            Division(number, path, part.file, decisions, labels, self.folder)
            for number, (part, path) in enumerate(zip(with_pairs, self._paths(parts), strict=True))
        ]
        with progress(self.console, "writing, parts", len(tasks)) as advance:
            found = []
            for one in each(divide, tasks, self.processes):
                found.append(one)
                advance(1)
        return sorted(found, key=lambda one: int(one["number"]))


def _contradictory(firsts: "DataFrame") -> tuple["DataFrame", "DataFrame"]:
    """(decisions about pairs that another one contradicts, the other pairs)."""
    daft = load_daft()
    col, when = daft.col, daft.functions.when
    sides = firsts.groupby("contents").agg(
        col("id").count().alias("sides"),
        col("id").min().alias("low_id"),
        col("id").max().alias("high_id"),
        col("first").min().alias("low"),
        col("first").max().alias("high"),
    )
    sides = sides.where(col("sides") > 1)
    decided = (
        firsts.select("id", "first", "contents")
        .join(sides, on="contents")
        .select(
            col("first").alias("position"),
            when(col("first") == col("low"), col("high")).otherwise(col("low")).alias("other"),
            when(col("id") == col("low_id"), col("high_id")).otherwise(col("low_id")).alias("other_id"),
        )
    )
    return decided, firsts.join(sides.select("contents"), on="contents", how="anti")


def _padded(table: pa.Table, reason: str) -> pa.Table:
    """Decisions with all columns of DECISIONS."""
    table = table.append_column("reason", pa.array([reason] * len(table), pa.string()))
    for name in DECISIONS.names:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), DECISIONS.field(name).type))
    return table.select(DECISIONS.names).cast(DECISIONS)


@dataclass(frozen=True)
class Division:
    """A part to divide into pairs that stay and pairs that are left out.

    Attributes:
        number: of the part, which names the new files.
        part, file: its path, and the label of its source.
        decisions, labels: files of DECISIONS, and of the sources' labels.
        folder: that holds pool/, preprocess/ and decided/.
    """

    number: int
    part: Path
    file: str
    decisions: Path
    labels: Path
    folder: Path


def divide(task: Division) -> dict[str, Any]:
    """Writes the pool's part and the removed pairs' part; how many pairs of `file` are kept and left out, by reason.

    Of the contaminated ones `by_set` names the first set each, and `hits` all.
    """
    done = task.folder / "decided" / f"{task.number:06}.json"
    if done.is_file():
        finished: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return finished
    table = pq.read_table(task.part)
    positions = table["position"].to_numpy()
    within = [("position", ">=", int(positions[0])), ("position", "<=", int(positions[-1]))]
    decisions = pq.read_table(task.decisions, filters=within)
    where = np.searchsorted(positions, decisions["position"].to_numpy())
    staying = np.ones(len(positions), bool)
    staying[where] = False
    kept, removed = table.select(POOL.names).filter(pa.array(staying)), table.select(POOL.names).take(where)
    labels = json.loads(task.labels.read_text(encoding="utf-8"))
    evidence = [_evidence(row, labels) for row in decisions.to_pylist()]
    removed = removed.append_column("reason", decisions["reason"])
    removed = removed.append_column(
        "evidence", pa.array([json.dumps(e, ensure_ascii=False) for e in evidence], pa.string())
    )
    if len(kept):
        write_table(task.folder / "pool" / f"part-{task.number:06}.parquet", kept)
    if len(removed):
        write_table(task.folder / "preprocess" / f"removed-{task.number:06}.parquet", removed.cast(REMOVED))
    sets = [[hit["set"] for hit in one["sets"]] for one in evidence if "sets" in one]
    counts = {
        "number": task.number,
        "file": task.file,
        "kept": len(kept),
        "reasons": Counter(decisions["reason"].to_pylist()),
        "by_set": Counter(names[0] for names in sets),
        "hits": Counter(name for names in sets for name in names),
    }
    write_durably(done, json.dumps(counts))
    return counts


def _evidence(decision: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """What made a decision: the other pair's place (and id, where it is another one), how similar, the sets and n-grams."""
    evidence: dict[str, Any] = {}
    if decision["other"] is not None:
        source, line = place(decision["other"])
        evidence["other"] = {"file": labels[source], "line": line}
        if decision["other_id"] is not None:
            evidence["other"]["id"] = decision["other_id"]
    if decision["similarity"] is not None:
        evidence["similarity"] = decision["similarity"]
    if decision["sets"] is not None:
        evidence["sets"] = json.loads(decision["sets"])
    return evidence
