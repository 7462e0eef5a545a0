"""Rewards that outlive the process that made them: a killed evaluation goes on where it stopped.

While an evaluation runs, each finished window of comparisons is a line of OUT/unfinished.jsonl, on disk before the next
window begins. At the end all rewards become OUT/rewards.parquet, which names what made them too, so that the same command
run again, or with more benchmarks, scores only what is new.
"""

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skyrm_jax.errors import UserError
from skyrm_jax.eval.rewards import Written, plain, provenance
from skyrm_jax.report.files import whole

UNFINISHED, FINISHED = "unfinished.jsonl", "rewards.parquet"

COMPUTED = ("mesh", "batches")
"""What of a scorer's manifest may differ between two parts of an evaluation, and is told nevertheless."""


@dataclass
class Done:
    """The first comparisons of a set, as many as are scored.

    Attributes:
        rewards: f32[K] each.
        counts: what was counted meanwhile.
        computed: how: mesh and batches, as the scorer's manifest says.
    """

    rewards: list[np.ndarray] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    computed: dict[str, Any] = field(default_factory=dict)

    def add(self, rewards: Sequence[np.ndarray], counts: Mapping[str, int], computed: Mapping[str, Any]) -> None:
        """Takes in the comparisons after them."""
        self.rewards += rewards
        self.counts.update(counts)
        self.computed = together([self.computed, computed])


def together(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How parts of an evaluation were computed, as of one: all batches, and the mesh, or the list of several."""
    found: dict[str, Any] = {}
    batches = {tuple(batch) for part in parts for batch in part.get("batches", ())}
    meshes = [mesh for part in parts for mesh in _listed(part.get("mesh"))]
    different = [mesh for i, mesh in enumerate(meshes) if mesh not in meshes[:i]]
    if different:
        found["mesh"] = different[0] if len(different) == 1 else different
    if batches:
        found["batches"] = [list(batch) for batch in sorted(batches)]
    return found


def _listed(mesh: Any) -> list[Any]:
    return mesh if isinstance(mesh, list) else [] if mesh is None else [mesh]


class Journal:
    """What has been scored so far by the same model, by set.

    Args:
        folder: of the results.
        origin: everything about the model that could change a reward, plain values.
    """

    def __init__(self, folder: Path, origin: Mapping[str, Any]) -> None:
        """Raises UserError if the folder holds an unfinished evaluation of another model."""
        self._path = folder / UNFINISHED
        self._origin = plain(origin)
        self._windows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._whole: Written | None = None
        if (folder / FINISHED).is_file():
            written = provenance(folder / FINISHED)
            if written is not None and written.origin == self._origin:
                self._whole = written
        if self._path.is_file():
            self._read()

    def _read(self) -> None:
        lines = self._path.read_bytes().split(b"\n")
        if lines.pop():  # a line that a kill cut short: its window is scored again
            with self._path.open("r+b") as stream:
                stream.truncate(sum(len(line) + 1 for line in lines))
        try:
            records = [json.loads(line) for line in lines]
            if records and records[0]["origin"] != self._origin:
                names = [n for n in self._origin if records[0]["origin"].get(n) != self._origin[n]]
                raise UserError(
                    f"{self._path}: an evaluation of something else stopped here (its {', '.join(names)} differ): "
                    "remove the file, or give another --out"
                )
            for record in records[1:]:
                self._windows.setdefault((record["set"], record["content"]), []).append(record)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._path}: damaged ({error}): remove it, and all is scored again") from None

    def of(self, name: str, content: str, keys: Sequence[str]) -> Done:
        """What is scored of a set.

        Args:
            name, content: the set and the hash of its contents.
            keys: what its comparisons are called.
        """
        file = self._whole
        if file is not None and file.contents.get(name) == content and name in file.counts:
            return Done(file.of(name, keys), Counter(file.counts[name]), file.computed.get(name, {}))
        done = Done()
        for window in self._windows.get((name, content), []):
            if window["start"] != len(done.rewards):
                raise UserError(
                    f"{self._path}: damaged (a window of {name} is missing): remove it, and all is scored again"
                )
            rewards = [np.array(one, np.float32) for one in window["rewards"]]
            done.add(rewards, window["counts"], window.get("computed", {}))
        return done

    def add(
        self,
        name: str,
        content: str,
        start: int,
        rewards: Sequence[np.ndarray],
        counts: Mapping[str, int],
        computed: Mapping[str, Any],
    ) -> None:
        """Writes the rewards of the comparisons from `start` on, and returns when they are on disk."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self._path.exists() or not self._path.stat().st_size
        record = {
            "set": name,
            "content": content,
            "start": start,
            # A float32 as a float64 has one shortest text, which reads back as the same.
            "rewards": [np.asarray(one, np.float64).tolist() for one in rewards],
            "counts": dict(counts),
            "computed": computed,
        }
        with self._path.open("a", encoding="ascii") as stream:
            if is_new:
                stream.write(json.dumps({"origin": self._origin}) + "\n")
            stream.write(json.dumps(record) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self, names: Collection[str]) -> None:
        """Once these sets are in the finished file; what is scored of others stays."""
        others = [window for (name, _), of in self._windows.items() if name not in names for window in of]
        if not others:
            self._path.unlink(missing_ok=True)
            return
        with whole(self._path) as temporary:
            temporary.write_text("".join(json.dumps(one) + "\n" for one in ({"origin": self._origin}, *others)))
