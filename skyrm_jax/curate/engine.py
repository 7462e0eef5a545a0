"""Where curation's dataframes run: Daft in this process, or Daft on Ray, with the same code and the same results.

Whatever comes out of a dataframe has no order that two runs share, so what is kept is sorted by the caller's columns
(`sorted_table`) or written piece by piece by tasks that know their place (`each`).
"""

import os
import pickle
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from skyrm_jax.cores import cores
from skyrm_jax.data.writing import unfinished
from skyrm_jax.errors import UserError, user_message
from skyrm_jax.folders import sync

if TYPE_CHECKING:
    from daft import DataFrame

T = TypeVar("T")
R = TypeVar("R")

INSTALL = 'pip install "skyrm-jax[curate]"'

MOST_PARTITIONS = 1024
"""On Ray a partition is what one worker takes at a time."""

OBJECTS = 2 << 30
"""Most bytes of a local Ray's object store, which otherwise takes a third of the memory; more spills to disk."""

WRITTEN = 16 << 20
"""Bytes of a row group that Daft writes; it holds several of them, about three times as large, in memory."""

ROW_GROUP = 1 << 16
"""Rows of a row group: what a reader of a few rows must read at least."""

_running: str | None = None
"""The kind of engine that this process has started."""


@dataclass(frozen=True)
class Engine:
    """Where the dataframes run.

    Args:
        kind: `native`, on the cores of this machine, or `ray`, on a Ray cluster.
        ray_address: of the cluster, such as `auto` or `ray://head:10001`; null starts Ray on this machine. Every node must
            see the sources and the output under the same paths, and have this package installed.
    """

    kind: Literal["native", "ray"] = "native"
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("native", "ray"):
            raise UserError(f"engine.kind {self.kind!r} is not known; choose native or ray")
        if self.ray_address is not None and self.kind != "ray":
            raise UserError(
                f"engine.ray_address is given, but engine.kind is {self.kind}; set it to ray, or leave it out"
            )

    def start(self) -> None:
        """Has Daft run there from now on, in this process, for which it can be done once.

        Raises:
            UserError: Daft or Ray is not installed, the cluster cannot be reached, or Daft runs elsewhere already.
        """
        global _running
        daft = load_daft()
        if _running is None:
            try:
                if self.kind == "ray":
                    self._start_ray()
                    daft.set_runner_ray(self.ray_address, noop_if_initialized=True)
                else:
                    daft.set_runner_native()
            except daft.exceptions.DaftCoreException:  # a program that uses Daft itself has set one
                pass
            _running = daft.runners.get_or_infer_runner_type()
            daft.set_execution_config(parquet_target_row_group_size=WRITTEN, parquet_target_filesize=4 * WRITTEN)
        if _running != self.kind:
            raise UserError(
                f"engine.kind is {self.kind}, but Daft runs on {_running} in this process already and cannot change: use one "
                "engine for all steps of a command, or start another process"
            )

    def _start_ray(self) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError('engine.kind ray needs Ray: pip install "skyrm-jax[curate,ray]"') from error
        if ray.is_initialized():
            return
        try:
            if self.ray_address is not None:
                ray.init(address=self.ray_address, log_to_driver=False)
            else:
                ray.init(
                    address="local",
                    num_cpus=cores(),
                    object_store_memory=min(OBJECTS, _memory() // 5),
                    include_dashboard=False,
                    log_to_driver=False,
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = "on this machine" if self.ray_address is None else f"at {self.ray_address}"
            raise UserError(f"Ray cannot be reached {where}: {error}; check engine.ray_address") from error


def _memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def load_daft() -> Any:
    """The module, without its progress bars (curation has its own) and without its calls home.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
    try:
        import daft
        import daft.exceptions
        import daft.runners
    except ImportError as error:
        raise UserError(f"curation needs Daft: {INSTALL}") from error
    return daft


def read(paths: Sequence[Path]) -> "DataFrame":
    """The rows of parquet files of one schema."""
    # Daft takes paths for patterns; a pattern of one character stands for a character that would be special.
    names = [re.sub(r"[*?\[\]{}]", r"[\g<0>]", str(path)) for path in paths]
    frame: DataFrame = load_daft().read_parquet(names)
    return frame


def sorted_table(frame: "DataFrame", *by: str) -> pa.Table:
    """All rows, in memory, in the order of the columns `by`, which must tell any two rows apart."""
    table: pa.Table = frame.to_arrow()
    return table.sort_by([(name, "ascending") for name in by]).combine_chunks()


def write_table(path: Path, table: pa.Table) -> None:
    """A parquet file, whole or not at all, and on disk when this returns; equal tables give equal bytes."""
    with durable(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP)


@contextmanager
def durable(path: Path) -> Iterator[Path]:
    """A name to write a file under, which no other process writes, and which becomes `path` when it is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(unfinished(path.name))
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def each(work: Callable[[T], R], tasks: Iterable[T], processes: bool) -> Iterator[R]:
    """The results of `work` on every task, as they come, in no order. Leaving early cancels what has not begun.

    Args:
        work: a module's function; tasks and results can be pickled and are small. It may be run by several threads.
        tasks: what to do.
        processes: whether there is so much Python to be run that it is worth a process for every core.

    Raises:
        UserError: `work` raised one, or an OSError about a file; or a process died.
    """
    daft = load_daft()
    packed = [pickle.dumps(task) for task in tasks]
    if not packed:
        return
    folder = tempfile.TemporaryDirectory(prefix="skyrm-", ignore_cleanup_errors=True)
    stopped = Path(folder.name, "stopped")

    @daft.func.batch(return_dtype=daft.DataType.binary(), batch_size=1, use_process=processes)  # type: ignore[untyped-decorator]
    def run(batch: Any) -> list[bytes]:
        return [b"" if stopped.exists() else pickle.dumps(_outcome(work, one)) for one in batch.to_pylist()]

    frame = daft.from_pydict({"task": packed})
    if daft.runners.get_or_infer_runner_type() == "ray":
        frame = frame.into_partitions(min(len(packed), MOST_PARTITIONS))
    rows = frame.select(run(frame["task"]).alias("result")).iter_rows()
    try:
        for row in rows:
            result, error = pickle.loads(row["result"])
            if error is not None:
                raise UserError(error)
            yield result
    except RuntimeError as error:  # Daft's, for a process that is gone
        if "closed the connection" not in str(error):
            raise
        raise UserError(
            "a process that curates ended without a word, perhaps for want of memory: run the command again to go on"
        ) from error
    finally:
        # Daft runs an abandoned query to its end.
        with suppress(OSError):
            stopped.touch()
        rows.close()
        folder.cleanup()


def _outcome(work: Callable[[Any], Any], packed: bytes) -> tuple[Any, str | None]:
    """(result, None), or (None, what the user can mend): exceptions would reach the caller as text."""
    try:
        return work(pickle.loads(packed)), None
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        return None, message
