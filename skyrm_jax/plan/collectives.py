"""What a compiled program moves between devices, read from its HLO: kind, bytes, how often, and whether it waits."""

import math
import re
from collections import defaultdict
from dataclasses import dataclass

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

COMPUTING = ("fusion", "custom-call", "dot", "convolution", "while", "call", "conditional")

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_COMPUTATION = re.compile(r"^(?:(ENTRY) )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_CALLED = re.compile(r"(?:calls|body|to_apply|called_computations)=\{?%?([\w.\-]+)")
_LOOP = re.compile(r"(?:condition|body|branch_computations)=\{?%?([\w.\-]+)")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


@dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Args:
        bytes: of the whole array that is gathered, summed or exchanged, per device and time.
        times: it runs in one run of the program.
        asynchronous: the device computes meanwhile.
    """

    kind: str
    dtype: str
    bytes: int
    times: int
    asynchronous: bool


@dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    operation: str
    rest: str


def collectives(hlo: str) -> list[Collective]:
    """Every collective of scheduled HLO text.

    TPUs run one asynchronously as a chain of fusions, each repeating it beside a part of the computation: such
    repetitions, which share a channel, count once. A fused all-reduce whose shard alone is kept is a reduce-scatter.
    """
    computations, entry = _parse(hlo)
    times = _times(computations, entry)
    shapes = {i.name: i.type for body in computations.values() for i in body}
    sequenced = {entry} | {called for body in computations.values() for i in body for called in _LOOP.findall(i.rest)}
    found: dict[object, Collective] = {}
    for name, body in computations.items():
        fused_async = any("AsyncCollective" in i.rest for i in body if i.operation == "custom-call")
        scattered = name.startswith("all-reduce-scatter")
        for i in body:
            kind = i.operation.removesuffix("-start")
            if kind not in KINDS or not times[name]:
                continue
            channel = re.search(r"channel_id=(\d+)", i.rest)
            operands = _size(" ".join(shapes.get(o, "") for o in re.findall(r"%([\w.\-]+)", i.rest.split(")", 1)[0])))
            # What starts one may give back its operands beside its results.
            size = max(_size(i.type) - (operands if i.operation != kind else 0), operands)
            dtype = (_SHAPE.search(i.type) or [None, "?"])[1]
            asynchronous = fused_async or (i.operation != kind and _covered(body, i))
            made = Collective("reduce-scatter" if scattered else kind, str(dtype), size, times[name], asynchronous)
            key: object = (name, i.name) if name in sequenced else (kind, channel and channel[1])
            found[key] = max(found.get(key, made), made, key=lambda c: c.asynchronous)
    return sorted(found.values(), key=lambda c: (-c.bytes * c.times, c.kind))


def _parse(hlo: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", []
    for line in hlo.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            current.append(_Instruction(*instruction.groups()))
    return computations, entry


def _times(computations: dict[str, list[_Instruction]], entry: str) -> dict[str, int]:
    """How often each computation runs: a loop's body as often as its condition's constant says."""
    times: dict[str, int] = defaultdict(int)

    def visit(name: str, count: int) -> None:
        times[name] = max(times[name], count)
        for i in computations.get(name, []):
            inner = count
            if i.operation == "while":
                condition = re.search(r"condition=%?([\w.\-]+)", i.rest)
                known = re.search(r"known_trip_count[^\d}]*(\d+)", i.rest)
                inner = count * (int(known[1]) if known else _trips(computations[condition[1]] if condition else []))
            for called in _CALLED.findall(i.rest):
                visit(called, inner)

    visit(entry, 1)
    return times


def _covered(body: list[_Instruction], start: _Instruction) -> bool:
    """Whether the schedule has something to compute between this start and its end."""
    after = body[body.index(start) + 1 :]
    done = next((n for n, i in enumerate(after) if f"%{start.name})" in i.rest and "-done" in i.operation), 0)
    return any(i.operation in COMPUTING for i in after[:done])


def _trips(condition: list[_Instruction]) -> int:
    constants = [int(n) for i in condition if i.operation == "constant" for n in re.findall(r"^(\d+)\)", i.rest)]
    return max(constants, default=1)


def _size(types: str) -> int:
    """Bytes of all arrays among these types."""
    return sum(
        _BYTES.get(dtype, 0) * math.prod(int(n) for n in dims.split(",") if n) for dtype, dims in _SHAPE.findall(types)
    )
