"""What produced a result: everything that could change a number, in one record."""

import hashlib
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from skyrm_jax import __version__
from skyrm_jax.comparison import Comparison
from skyrm_jax.eval.statistics import LEVEL, REPLICATES


def describe(comparisons: Sequence[Comparison], data: str) -> dict[str, Any]:
    """Where a set of comparisons came from, its sizes, and a hash of its contents in order."""
    digest = hashlib.sha256()
    for comparison in comparisons:
        digest.update(json.dumps(asdict(comparison), sort_keys=True).encode() + b"\n")
    return {
        "data": data,
        "comparisons": len(comparisons),
        "responses": sum(len(c.responses) for c in comparisons),
        "content_sha256": digest.hexdigest(),
    }


def manifest(rewards: dict[str, Any], sets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The manifest of a report: where its rewards come from, the sets scored, the rules of its figures."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "skyrm_jax": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "rewards": rewards,
        "sets": sets,
        "ties": "strict: an exact tie is wrong, and counted apart; in RewardBench 2 one of m equal best responses is worth 1/m",
        "intervals": f"{LEVEL:.0%} percentile bootstrap by comparison, {REPLICATES} replicates",
    }
