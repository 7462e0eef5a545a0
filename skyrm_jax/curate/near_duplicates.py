"""Prompts that are nearly the same: MinHash and banding propose pairs, the exact Jaccard index decides.

Two prompts are near duplicates if their system messages are equal and their shingles (runs of `shingle` words of what is not
the system's; the whole text where it has fewer) have a Jaccard index of at least `threshold`. Words are those of
`ngrams.words`, those of one character too: sums differ by a digit. Near duplicates of near duplicates are one cluster, whose
earliest prompt represents it; so the ends of a chain may be less alike than `threshold`, and how alike each is to its
representative is kept.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Int, UInt32, UInt64
from scipy import sparse

from skyrm_jax.comparison import Message
from skyrm_jax.curate.engine import load_daft, read
from skyrm_jax.curate.ngrams import mix, rolling, words
from skyrm_jax.errors import UserError

BATCH = 4096
"""Prompts looked at together."""

RECALL = 0.999
"""Least share of near duplicates just at the threshold that banding must propose, on average."""

MEMBERS, ROWS = 1 << 14, 1 << 10
"""Prompts of a batch of buckets, and how many of them are compared with all at a time."""


@dataclass(frozen=True)
class NearDuplicates:
    """How prompts are found that are nearly the same.

    Args:
        threshold: least Jaccard index of their shingles.
        shingle: words of a shingle; a Han character, kana or Hangul syllable is a word.
        hashes: of a MinHash signature; more of them propose fewer pairs in vain.
    """

    threshold: float = 0.8
    shingle: int = 3
    hashes: int = 128

    def __post_init__(self) -> None:
        for name, bad, rule in [
            ("threshold", not 0 < self.threshold <= 1, "must be above 0 and at most 1"),
            ("shingle", self.shingle < 1, "must be at least 1"),
            ("hashes", self.hashes < 1, "must be at least 1"),
        ]:
            if bad:
                raise UserError(f"preprocess.near_duplicates.{name} {rule}: {getattr(self, name)}")
        self.banding  # noqa: B018  an unusable one is told now

    @property
    def banding(self) -> tuple[int, int]:
        """(bands, rows): the longest bands that propose pairs at the threshold with a chance of RECALL.

        Two prompts with Jaccard index s agree in all of a band's rows with a chance of s^rows.
        """
        for rows in range(self.hashes, 0, -1):
            bands = self.hashes // rows
            if 1 - (1 - self.threshold**rows) ** bands >= RECALL:
                return bands, rows
        raise UserError(
            f"preprocess.near_duplicates.hashes = {self.hashes} are too few to find prompts as unlike as threshold = "
            f"{self.threshold:g}; raise either"
        )


def said(prompt: Iterable[Message]) -> tuple[str, list[str]]:
    """(the system messages, the words of the others) of a prompt: what two prompts are compared by."""
    messages = list(prompt)
    system = "\x00".join(message.content for message in messages if message.role == "system")
    return system, [word for m in messages if m.role != "system" for word in words(m.content, 1)]


def sketch(parts: Sequence[Path], wanted: Path, options: NearDuplicates, folder: Path, processes: bool) -> None:
    """Writes, in `folder`, what is needed of the prompts at some positions to compare them.

    Columns: `position`, `shingles` (64-bit hashes, ascending, mixed with the system messages'), `band_0`, `band_1`, ...
    Prompts without words are left out.

    Args:
        parts: parquet files with the columns `position` and `prompt`.
        wanted: .npy file of the positions, ascending, that every node can read.
        options: how.
        folder: to be made.
        processes: whether it is worth a process for every core.
    """
    daft = load_daft()
    types, col = daft.DataType, daft.col
    positions, size = str(wanted), options.shingle
    bands, rows = options.banding
    hashes = options.hashes

    @daft.func.batch(return_dtype=types.bool(), use_process=False)  # type: ignore[untyped-decorator]
    def is_wanted(some: Any) -> pa.Array:
        return pa.array(member(some.to_arrow().to_numpy(), np.load(positions, mmap_mode="r")))

    fields = {"text": types.string(), "system": types.uint64(), "shingles": types.list(types.uint64())}

    @daft.func.batch(return_dtype=types.struct(fields), batch_size=BATCH, use_process=processes)  # type: ignore[untyped-decorator]
    def read_prompt(prompts: Any) -> pa.Array:
        return _read(prompts.to_pylist(), size)

    names = [f"band_{k}" for k in range(bands)]

    @daft.func.batch(return_dtype=types.struct(dict.fromkeys(names, types.uint64())), unnest=True, use_process=False)  # type: ignore[untyped-decorator]
    def banded(signatures: Any, systems: Any) -> pa.Array:
        values = signatures.to_arrow().flatten().to_numpy().reshape(-1, hashes)
        found = _bands(values, systems.to_arrow().to_numpy(), bands, rows)
        return pa.StructArray.from_arrays([pa.array(column) for column in found], names)

    frame = read(parts).select("position", "prompt")
    frame = frame.where(is_wanted(col("position")))
    frame = frame.select("position", read_prompt(col("prompt")).alias("read"))
    frame = frame.select("position", *(col("read").get(name).alias(name) for name in fields)).where(col("text") != "")
    signature = daft.functions.minhash(col("text"), num_hashes=options.hashes, ngram_size=size)
    frame = frame.with_column("signature", signature)
    frame.select("position", "shingles", banded(col("signature"), col("system"))).write_parquet(str(folder))


def member(values: Int[np.ndarray, "n"], ascending: Int[np.ndarray, "m"]) -> Bool[np.ndarray, "n"]:
    """Which of the values stand in the other array."""
    if not len(ascending):
        return np.zeros(len(values), bool)
    at = np.searchsorted(ascending, values)
    found: np.ndarray = ascending[np.minimum(at, len(ascending) - 1)] == values
    return found


def _read(prompts: Iterable[Sequence[dict[str, str]]], size: int) -> pa.StructArray:
    """For each prompt its words as `text`, a hash of its `system` messages, and its `shingles`."""
    spoken, systems = [], []
    for prompt in prompts:
        system, found = said(Message(message["role"], message["content"]) for message in prompt)
        systems.append(_hash(system))
        spoken.append(found)
    keys = np.array(systems, np.uint64)
    values, owners = _shingles(spoken, size)
    values = mix(values ^ keys[owners])
    order = np.lexsort((values, owners))
    values, owners = values[order], owners[order]
    fresh = np.ones(len(values), bool)
    fresh[1:] = (values[1:] != values[:-1]) | (owners[1:] != owners[:-1])
    ends = np.searchsorted(owners[fresh], np.arange(len(spoken) + 1)).astype(np.int32)
    columns = [
        pa.array([" ".join(one) for one in spoken], pa.string()),
        pa.array(keys),
        pa.ListArray.from_arrays(ends, values[fresh]),
    ]
    return pa.StructArray.from_arrays(columns, ["text", "system", "shingles"])


def _shingles(spoken: Sequence[Sequence[str]], size: int) -> tuple[UInt64[np.ndarray, "s"], Int[np.ndarray, "s"]]:
    """(hashes, numbers of the texts) of all shingles of some texts."""
    lengths = np.array([len(one) for one in spoken], np.int64)
    hashes = np.array([_hash(word) for one in spoken for word in one], np.uint64)
    owners = np.repeat(np.arange(len(spoken)), lengths)
    runs = rolling(hashes, size)
    inside = owners[: len(runs)] == owners[size - 1 :]
    begins = np.cumsum(lengths) - lengths
    short = np.flatnonzero((lengths > 0) & (lengths < size))
    wholes = [rolling(hashes[begins[i] : begins[i] + lengths[i]], int(lengths[i])) for i in short]
    return np.concatenate([runs[inside], *wholes]), np.concatenate([owners[: len(runs)][inside], short])


@lru_cache(1 << 18)
def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _bands(
    signatures: UInt32[np.ndarray, "n hashes"], systems: UInt64[np.ndarray, "n"], bands: int, rows: int
) -> list[UInt64[np.ndarray, "n"]]:
    """64 bits for each band of each signature, different where the system messages or the bands are."""
    found = []
    for band in range(bands):
        total = mix(systems + np.uint64(band))
        for column in signatures[:, band * rows : (band + 1) * rows].T:
            total = mix(total ^ column)
        found.append(total)
    return found


def clusters(folder: Path, threshold: float) -> pa.Table:
    """The prompts that an earlier one represents, by position.

    Columns: `position`, `representative` (the position of the cluster's earliest prompt) and `similarity` to it.

    Args:
        folder: that `sketch` has filled.
        threshold: least Jaccard index of near duplicates.
    """
    files = sorted(folder.glob("*.parquet"))
    with tempfile.TemporaryFile(dir=folder) as file:
        prompts = _Prompts.of(files, file)
        found = _Clusters(len(prompts.positions))
        for name in pq.read_schema(files[0]).names if files else ():
            if name.startswith("band_"):
                for members, buckets in _batches(*_buckets(prompts.column(files, name)), found):
                    _join(members, buckets, prompts, found, threshold)
        roots = found.roots(np.arange(len(prompts.positions)))
        removed = np.flatnonzero(roots != np.arange(len(roots)))
        similarity = [prompts.jaccard(i, j) for i, j in zip(removed.tolist(), roots[removed].tolist(), strict=True)]
    return pa.table(
        {
            "position": prompts.positions[removed],
            "representative": prompts.positions[roots[removed]],
            "similarity": pa.array(similarity, pa.float64()),
        }
    )


@dataclass(frozen=True)
class _Prompts:
    """Prompts by position, ascending, with their shingles in a file.

    Attributes:
        order: for each prompt, the how manyth it was as they were read.
        positions: of the prompts.
        starts, lengths: for each, where its shingles begin in `shingles`, and how many there are.
        shingles: of all prompts, in the order in which they were read.
    """

    order: Int[np.ndarray, "n"]
    positions: Int[np.ndarray, "n"]
    starts: Int[np.ndarray, "n"]
    lengths: Int[np.ndarray, "n"]
    shingles: UInt64[np.ndarray, "s"]

    @classmethod
    def of(cls, files: Sequence[Path], kept: BinaryIO) -> Self:
        """Those of `sketch`; their shingles are written to the file `kept`."""
        positions, lengths = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for path in files:
            with pq.ParquetFile(path) as table:
                for batch in table.iter_batches(BATCH, columns=["position", "shingles"]):
                    positions.append(batch["position"].to_numpy())
                    lengths.append(pc.list_value_length(batch["shingles"]).to_numpy().astype(np.int64))
                    kept.write(batch["shingles"].flatten().to_numpy().tobytes())
        kept.flush()
        position, length = np.concatenate(positions), np.concatenate(lengths)
        order = np.argsort(position)
        shingles = np.memmap(kept, np.uint64, "r") if len(position) else np.zeros(0, np.uint64)
        return cls(order, position[order], (np.cumsum(length) - length)[order], length[order], shingles)

    def column(self, files: Sequence[Path], name: str) -> UInt64[np.ndarray, "n"]:
        """A column of what `sketch` wrote."""
        read: np.ndarray = np.concatenate([pq.read_table(path, columns=[name])[name].to_numpy() for path in files])
        return read[self.order]

    def of_prompt(self, i: int) -> UInt64[np.ndarray, "_"]:
        """The shingles of prompt `i`."""
        found: np.ndarray = self.shingles[self.starts[i] : self.starts[i] + self.lengths[i]]
        return found

    def jaccard(self, i: int, j: int) -> float:
        """How alike two prompts are: shingles in common over all shingles of both."""
        common = len(np.intersect1d(self.of_prompt(i), self.of_prompt(j), assume_unique=True))
        return float(common / (self.lengths[i] + self.lengths[j] - common))


class _Clusters:
    """Union-find; a cluster's root is its lowest number."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def roots(self, members: Int[np.ndarray, "m"]) -> Int[np.ndarray, "m"]:
        """The root of each member's cluster."""
        found = self._parent[members]
        while not np.array_equal(above := self._parent[found], found):
            found = above
        self._parent[members] = found
        return found

    def join(self, members: Int[np.ndarray, "m"], labels: Int[np.ndarray, "m"]) -> None:
        """Makes one cluster of those of all members with the same label."""
        order = np.argsort(labels, kind="stable")
        roots, labels = self.roots(members)[order], labels[order]
        apart = np.flatnonzero((labels[1:] == labels[:-1]) & (roots[1:] != roots[:-1]))
        for pair in np.stack([roots[apart], roots[apart + 1]], 1):
            one, other = self.roots(pair).tolist()
            self._parent[max(one, other)] = min(one, other)


def _buckets(hashes: UInt64[np.ndarray, "n"]) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "b"]]:
    """(members, sizes): the numbers of equal hashes, bucket after bucket, and how many each bucket of several has."""
    order = np.argsort(hashes, kind="stable")
    begins = np.flatnonzero(np.diff(hashes[order], prepend=~hashes[order[:1]]))
    sizes = np.diff(begins, append=len(order))
    return order[np.repeat(sizes > 1, sizes)], sizes[sizes > 1]


def _batches(
    members: Int[np.ndarray, "m"], sizes: Int[np.ndarray, "b"], found: _Clusters
) -> Iterator[tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_"]]]:
    """(members, the number of each one's bucket) for about MEMBERS at a time; buckets of one cluster are left out."""
    if not len(sizes):
        return
    ends = np.cumsum(sizes)
    roots, begins = found.roots(members), ends - sizes
    several = np.flatnonzero(np.minimum.reduceat(roots, begins) != np.maximum.reduceat(roots, begins))
    # A batch ends with the bucket in which a multiple of MEMBERS is reached.
    for batch in np.split(several, np.flatnonzero(np.diff(np.cumsum(sizes[several]) // MEMBERS)) + 1):
        if len(batch):
            chosen = [members[begins[b] : ends[b]] for b in batch]
            yield np.concatenate(chosen), np.repeat(np.arange(len(batch)), sizes[batch])


def _join(
    members: Int[np.ndarray, "m"],
    buckets: Int[np.ndarray, "m"],
    prompts: _Prompts,
    found: _Clusters,
    threshold: float,
) -> None:
    """Joins the clusters of all prompts of a bucket that are near duplicates."""
    lengths = prompts.lengths[members]
    shingles = np.concatenate([prompts.of_prompt(i) for i in members])
    # Equal shingles of different buckets are told apart, so that only prompts of one bucket have any in common.
    told, columns = np.unique(shingles + mix(np.repeat(buckets, lengths).astype(np.uint64)), return_inverse=True)
    rows = np.repeat(np.arange(len(members)), lengths)
    has = sparse.csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), (len(members), len(told)))
    others = has.T.tocsc()
    for first in range(0, len(members), ROWS):
        roots = found.roots(members)
        if not ((np.diff(roots) != 0) & (np.diff(buckets) == 0)).any():
            return  # there is nothing left to join
        common = (has[first : first + ROWS] @ others).tocoo()
        one, other = common.row + first, common.col
        alike = common.data / (lengths[one] + lengths[other] - common.data) >= threshold
        edges = sparse.coo_matrix((alike[alike], (one[alike], other[alike])), (len(members), len(members)))
        found.join(members, sparse.csgraph.connected_components(edges, directed=False)[1])
