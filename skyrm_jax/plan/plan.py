"""A plan: everything the page and the JSON say of a config on a topology."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from skyrm_jax.config import TrainConfig
from skyrm_jax.data.pipeline import row_shapes
from skyrm_jax.mesh import make_mesh, row_shards
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.flops import Flops, flops
from skyrm_jax.packing import RowShape
from skyrm_jax.plan.collectives import Collective, collectives
from skyrm_jax.plan.fit import largest
from skyrm_jax.plan.flops import Roofline, TreeStatistics, roofline
from skyrm_jax.plan.programs import SCORE, STEP, DoesNotFit, Held, Program, Programs
from skyrm_jax.plan.topology import Topology


@dataclass(frozen=True)
class Moved:
    """All collectives of one kind in a step's first micro-batch: how many, bytes per device, and the share overlapped."""

    kind: str
    count: int
    bytes: int
    overlapped: float


@dataclass(frozen=True)
class Plan:
    """What a run of a config on a topology takes; bytes are per device.

    Args:
        scoring: the scorer's program on that mesh, a row of the same length a shard; no part of the run.
    """

    topology: Topology
    mesh: dict[str, int]
    shape: RowShape
    programs: dict[str, Program]
    refused: list[DoesNotFit]
    held: Held
    moved: list[Moved]
    trees: TreeStatistics
    per_comparison: Flops
    step: Roofline
    batch: int
    scoring: Program | DoesNotFit
    max_rows: int | None = None
    command: str = ""

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch on one device."""
        return self.shape.rows * self.shape.tokens // (self.mesh["data"] * self.mesh["fsdp"])

    @property
    def peak(self) -> int:
        """The most that a device needs at any time."""
        return max((program.needs for program in self.programs.values()), default=0)

    @property
    def fits(self) -> bool:
        return not self.refused and self.peak <= self.topology.chip.usable

    def where(self) -> dict[str, int]:
        """What the peak is made of; temporaries are the rest of it."""
        worst = max(self.programs.values(), key=lambda program: program.needs)
        parts = {"parameters": self.held.parameters, "optimiser moments": self.held.moments}
        if worst.name != "evaluate":
            parts["gradients"] = self.held.parameters
        return parts | {"activations and temporaries": worst.needs - sum(parts.values())}

    def as_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "topology": self.topology.name,
            "slices": self.topology.slices,
            "chip": self.topology.chip.name,
            "mesh": self.mesh,
            "rows": self.shape.rows,
            "row_tokens": self.shape.tokens,
            "tokens_per_device": self.tokens,
            "fits": self.fits,
            "peak_bytes": self.peak,
            "usable_bytes": self.topology.chip.usable,
            "where_bytes": self.where() if self.programs else {},
            "programs": {
                name: {"peak_bytes": p.peak, "resident_bytes": p.resident, "compile_seconds": p.seconds}
                for name, p in self.programs.items()
            },
            "refused": [asdict(one) for one in self.refused],
            "scoring": _scoring(self.scoring),
            "max_rows_per_device": self.max_rows,
            "collectives": [asdict(one) for one in self.moved],
            "comparison": asdict(self.trees) | {"model_flops": self.per_comparison.total},
            "roofline_step_seconds": {"at_100_percent": self.step.at_peak, "at_50_percent": self.step.at_half},
            "command": self.command,
        }


def make_plan(
    config: TrainConfig,
    architecture: Architecture,
    topology: Topology,
    trees: TreeStatistics,
    shape_for: Callable[[int], RowShape],
    search: bool = True,
) -> Plan:
    """Compiles the programs of `config` for the topology; with `search`, also for the largest micro-batch that fits.

    `shape_for` gives the micro-batch for a number of shards, data * fsdp of the mesh: `longest_shape` is a run's.

    Raises:
        UserError: the mesh, or the micro-batch, does not suit the devices.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.model, topology.devices)
    shards = row_shards(mesh)
    shape = shape_for(shards)
    programs = Programs(architecture, config.model, config.optimizer, mesh)
    compiled = [programs.compile(name, shape) for name in STEP]
    done = {one.name: one for one in compiled if isinstance(one, Program)}

    def needs(rows: int) -> int | None:
        if rows * shards == shape.rows:
            return done["add"].needs if "add" in done else None
        found = programs.compile("add", RowShape(rows * shards, shape.tokens, shape.leaves, shape.pairs))
        return found.needs if isinstance(found, Program) else None

    devices, per_comparison = mesh.size, flops(architecture, trees.tokens, trees.visible)
    return Plan(
        topology,
        dict(mesh.shape),
        shape,
        done,
        [one for one in compiled if isinstance(one, DoesNotFit)],
        programs.held,
        moved(collectives(done["add"].hlo)) if "add" in done else [],
        trees,
        per_comparison,
        roofline(per_comparison, config.optimizer.batch, devices, topology.chip),
        config.optimizer.batch,
        programs.compile(SCORE, RowShape(shards, shape.tokens, shape.leaves, pairs=1)),
        largest(needs, topology.chip.usable, shape.rows // shards) if search else None,
    )


def _scoring(made: Program | DoesNotFit) -> dict[str, Any]:
    if isinstance(made, DoesNotFit):
        return {"refused": made.reason}
    return {"peak_bytes": made.peak, "compile_seconds": made.seconds}


def longest_shape(config: TrainConfig, facts: Mapping[str, Any], shards: int) -> RowShape:
    """The micro-batch of the longest rows that `train` makes of a store, of which `facts` are what store.json says."""
    lengths, rows = config.data.micro_batches(shards, facts["totals"])
    return max(row_shapes(facts["sources"], lengths, rows), key=lambda shape: shape.tokens)


def assumed_facts(tokens: int) -> dict[str, Any]:
    """What store.json would say of pairs of `tokens` tokens."""
    facts = {"tokens": tokens, "leaves": 2, "pairs": 1, "most_tokens": tokens, "most_leaves": 2, "most_pairs": 1}
    return {"totals": facts, "sources": [facts]}


def moved(found: list[Collective]) -> list[Moved]:
    """By kind, most bytes first."""
    kinds: dict[str, list[Collective]] = defaultdict(list)
    for one in found:
        kinds[one.kind].append(one)

    def total(ones: list[Collective]) -> int:
        return sum(one.bytes * one.times for one in ones)

    rows = [
        Moved(kind, sum(o.times for o in ones), total(ones), total([o for o in ones if o.asynchronous]) / total(ones))
        for kind, ones in kinds.items()
    ]
    return sorted(rows, key=lambda row: -row.bytes)
