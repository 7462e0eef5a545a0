"""Whether a run may go on from what its folder holds."""

import math
from pathlib import Path
from typing import Any

from skyrm_jax.errors import UserError

# What may differ between a run and its resumption: nothing that decides which comparisons a step holds or what an
# update does with them.
FREE_TO_CHANGE = {
    "data.root",
    "data.sources",
    "data.store",
    "data.rows",
    "data.row_tokens",
    "data.prefetch",
    "data.workers",
    "model.remat",
    "model.attention",
    "run.out",
    "run.log_every",
    "run.evaluate_every",
    "run.checkpoint_every",
    "run.keep",
    "run.non_finite",
    "run.stuck_seconds",
    "run.profile",
    "run.wandb",
}


def require_same_run(before: dict[str, Any], now: dict[str, Any], out: Path | str, step: int) -> None:
    """Refuses to resume a run on other data, or under a config that would have made it another run.

    A run that has reached its `run.steps` may go on to a later step: with the comparisons that follow, at the
    learning rates that the schedule has from there to the new end.
    """
    if before["store"] != now["store"]:
        raise UserError(
            f"{out} was trained on another store than the one given; point data.store at the old one, "
            "or choose another run.out"
        )
    for section, values in before["config"].items():
        for name, value in values.items():
            key = f"{section}.{name}"
            if key == "run.steps" and value == step and (now["config"]["run"]["steps"] or math.inf) > step:
                continue
            given = now["config"][section].get(name)
            if section != "mesh" and key not in FREE_TO_CHANGE and given != value:
                raise UserError(
                    f"{out} holds a run with {'; '.join(_differences(key, value, given))}; "
                    f"restore the value to resume, or choose another run.out"
                )


def _differences(key: str, before: Any, now: Any) -> list[str]:
    """Two values of a key that differ, in words; of mappings only their keys that differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [f"{key} = {before!r}, now it is {now!r}"]
    names = [n for n in {**before, **now} if n not in before or n not in now or before[n] != now[n]]
    old, new = ([repr(given[n]) if n in given else "left out" for n in names] for given in (before, now))
    return [f"{key}.{n} = {was}, now it is {this}" for n, was, this in zip(names, old, new, strict=True)]
