"""The folder of a curation: where everything is, what made it, and what its iterations have given so far.

OUT/curation.json        the options that decide what is in the folder
OUT/pool, OUT/preprocess see `preprocess`
OUT/calls/               answers of annotators, and what they cost
OUT/attributes/          of every pair of the pool, if the step `attributes` was run
OUT/vectors*/            of every pair of the pool, if an embedder of its own makes them
OUT/iterations/NN/       stage 1, see `stage1`
OUT/stage2/, OUT/final/  stage 2, see `stage2`
OUT/measure/             models trained on every stage, see `measure`
OUT/report.json, .html   the curation so far
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skyrm_jax.curate.attributes import NAMES, Attributes
from skyrm_jax.curate.config import CurateConfig
from skyrm_jax.curate.judge import Example, Verdict
from skyrm_jax.curate.labelling import read_verdicts
from skyrm_jax.curate.pair import SCHEMA, Pair
from skyrm_jax.data.writing import remove_unfinished, write_durably
from skyrm_jax.errors import UserError

FREE = ("out", "budget", "enough", "engine", "preprocess.root", "stage1.iterations", "votes.absent")
"""Options that may change while a curation goes on; the number of iterations may only grow, and before stage 2."""

FREE_OF_ANNOTATORS = ("base_url", "api_key_env", "concurrency", "timeout", "retries", "price_in", "price_out")
"""The same, of each annotator."""

FILES = ("reward_model.config", "judge.prompt", "attributes.prompt")
"""Options that name files whose contents may not change either."""

SELECTED = pa.unify_schemas(
    [
        SCHEMA,
        pa.schema([("found_by", pa.string()), ("rank", pa.int64()), ("similarity", pa.float32()), ("p", pa.float32())]),
    ]
)
"""Columns of an iteration's pairs: the verified pair whose neighbour each is (null: drawn at random), its rank among the
neighbours, and sigmoid(r_chosen - r_rejected) by the iteration's reward model (null: there was none)."""

GOLD = pa.unify_schemas(
    [
        SCHEMA,
        pa.schema([("verdict", pa.string()), ("people", pa.list_(pa.string())), *[(n, pa.string()) for n in NAMES]]),
    ]
)
"""Columns of verified pairs: the pair as it stands in the pool, what people say of it, and its attributes as they left
them."""


@dataclass(frozen=True)
class Iteration:
    """One iteration of stage 1, finished or not."""

    folder: Path

    @property
    def finished(self) -> bool:
        return self.summary.is_file()

    @property
    def summary(self) -> Path:
        return self.folder / "summary.json"

    @property
    def model(self) -> Path:
        """Where its reward model is trained."""
        return self.folder / "model"

    def file(self, name: str) -> Path:
        """One of its tables: selected, attributes, votes, labels, gold."""
        return self.folder / f"{name}.parquet"

    def selected(self) -> list[Pair]:
        """The pairs that it looked at."""
        return [Pair.of_row(row) for row in pq.read_table(self.file("selected")).to_pylist()]

    def gold(self) -> list[Example]:
        """What people said of some of them, undecidable ones included."""
        if not self.file("gold").is_file():
            return []
        return [
            Example(Pair.of_row(row), row["verdict"], Attributes.of({name: row[name] for name in NAMES}))
            for row in pq.read_table(self.file("gold")).to_pylist()
        ]

    def verdicts(self) -> dict[str, Verdict]:
        """What annotators said of them, by id."""
        return read_verdicts(self.file("labels")) if self.file("labels").is_file() else {}


class Workspace:
    """The folder of a curation."""

    def __init__(self, config: CurateConfig) -> None:
        """Raises UserError if the folder was made with other options."""
        self.config = config
        self.root = Path(config.out).absolute()
        self._require_same()
        self._require_iterations()

    @property
    def pool(self) -> Path:
        return self.root / "pool"

    @property
    def calls(self) -> Path:
        return self.root / "calls"

    @property
    def attributes(self) -> Path:
        return self.root / "attributes"

    @property
    def stage2(self) -> Path:
        return self.root / "stage2"

    @property
    def final(self) -> Path:
        return self.root / "final"

    def iteration(self, number: int) -> Iteration:
        return Iteration(self.root / "iterations" / f"{number:02d}")

    def before(self, number: int) -> Iterator[Iteration]:
        """The iterations before this one, in order."""
        return map(self.iteration, range(number))

    def gold(self, number: int) -> list[Example]:
        """The pairs that people have decided before this iteration."""
        return [one for iteration in self.before(number) for one in iteration.gold() if one.verdict != "none"]

    def silver(self, number: int) -> list[Pair]:
        """The pairs that train the reward model of this iteration, with the labels that they train it with.

        No pair that people have seen, and no prompt of a verified pair, is among them.
        """
        iterations = list(self.before(number))
        seen = {one.pair.id for iteration in iterations for one in iteration.gold()}
        prompts = {one.pair.prompt_key for one in self.gold(number)}
        pairs = []
        for iteration in iterations:
            verdicts = iteration.verdicts()
            for pair in iteration.selected():
                if pair.id in seen or pair.prompt_key in prompts:
                    continue
                if verdicts.get(pair.id) == "original":
                    pairs.append(pair)
                elif verdicts.get(pair.id) == "flipped" and self.config.stage1.silver == "relabelled":
                    pairs.append(pair.flipped())
        return pairs

    def selected_ids(self, number: int) -> set[str]:
        """Ids of the pairs that iterations before this one have looked at."""
        return {
            id
            for one in self.before(number)
            for id in pq.read_table(one.file("selected"), columns=["id"])["id"].to_pylist()
        }

    def remove_unfinished(self) -> None:
        """Removes what killed runs of the steps after preprocessing left behind, so that no file is there but what they make."""
        for pattern in ("attributes", "iterations/*", "stage2", "stage2/*", "final/*"):
            for folder in self.root.glob(pattern):
                remove_unfinished(folder)

    def begin_stage2(self) -> None:
        """Writes down how many iterations stage 2 comes after: their number is final now."""
        self.stage2.mkdir(exist_ok=True)
        write_durably(self.stage2 / "iterations.json", json.dumps(self.config.stage1.iterations) + "\n")

    def _require_iterations(self) -> None:
        given, note = self.config.stage1.iterations, self.stage2 / "iterations.json"
        if note.is_file() and (then := int(note.read_text())) != given:
            raise UserError(
                f"{self.root}: stage 2 comes after {then} iterations of stage 1, and stage1.iterations is {given}; set it back, "
                f"or remove {self.stage2}, {self.final} and {self.root / 'measure'} to make them anew"
            )
        if self.iteration(given + 1).folder.exists():
            raise UserError(
                f"{self.root}: iteration {given + 1} of stage 1 is begun already; stage1.iterations may grow, but not be {given}"
            )

    def _require_same(self) -> None:
        path, now = self.root / "curation.json", fixed(self.config.as_dict())
        if path.is_file():
            then = json.loads(path.read_text(encoding="utf-8"))
            changed = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
            if changed:
                raise UserError(
                    f"{self.root}: was begun with another {', '.join(changed)}; give the same, or another folder as out"
                )
        else:
            self.root.mkdir(parents=True, exist_ok=True)
            write_durably(path, json.dumps(now, indent=2) + "\n")


def labelled(gold: Sequence[Example]) -> list[Pair]:
    """Verified pairs with the labels that people gave them."""
    return [one.pair.flipped() if one.verdict == "flipped" else one.pair for one in gold]


def fixed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide what a curation makes, flat, as plain JSON values; of FILES digests of the contents too."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if prefix in FREE:
            return
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else str(name), inner)
        else:
            flat[prefix] = value

    walk("", {name: value for name, value in options.items() if name != "annotators"})
    # The order counts: attributes are asked of one after the other.
    flat["annotators"] = [annotator["name"] for annotator in options["annotators"]]
    for annotator in options["annotators"]:
        kept = {name: value for name, value in annotator.items() if name not in FREE_OF_ANNOTATORS}
        walk(f"annotators.{annotator['name']}", kept)
    for name in FILES:
        if (path := flat.get(name)) and Path(path).is_file():
            flat[f"{name} (contents)"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return dict(json.loads(json.dumps(flat)))


def float_column(values: np.ndarray | None, count: int) -> pa.Array:
    """float32, or nulls where there are no values."""
    return pa.nulls(count, pa.float32()) if values is None else pa.array(np.asarray(values, np.float32))
