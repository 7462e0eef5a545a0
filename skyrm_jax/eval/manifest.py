"""What produced a result: everything that could change a number, in one record."""

import hashlib
import json
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from skyrm_jax import __version__
from skyrm_jax.comparison import Comparison, to_record
from skyrm_jax.eval.statistics import LEVEL, REPLICATES

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "transformers")


def describe(comparisons: Sequence[Comparison], data: str) -> dict[str, Any]:
    """Where a set of comparisons came from, its sizes, and a hash of its contents in order."""
    digest = hashlib.sha256()
    for comparison in comparisons:
        digest.update(json.dumps(to_record(comparison), sort_keys=True).encode())
        digest.update(b"\n")
    return {
        "data": data,
        "comparisons": len(comparisons),
        "responses": sum(len(c.responses) for c in comparisons),
        "content_sha256": digest.hexdigest(),
    }


def manifest(rewards_from: dict[str, Any], sets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The manifest of a report: the source of the rewards, the sets scored, and the software it ran on."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv[1:],
        "rewards": rewards_from,
        "sets": sets,
        "interval": {
            "level": LEVEL,
            "replicates": REPLICATES,
            "method": "percentile bootstrap by comparison",
        },
        "ties": "strict: an exact tie is wrong, and counted",
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of this package, Python and what rewards depend on (only those installed)."""
    found = {"skyrm_jax": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
