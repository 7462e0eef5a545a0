"""The plan as one page of text."""

from skyrm_jax.chips import GIB
from skyrm_jax.plan.plan import Plan
from skyrm_jax.plan.programs import DoesNotFit


def page(plan: Plan, title: str) -> str:
    """What to read before paying."""
    chip, slices = plan.topology.chip, plan.topology.slices
    where = f"{slices} x {plan.topology.name}" if slices > 1 else plan.topology.name
    devices = len(plan.topology.devices)
    lines = [
        f"{title} on {where}: {devices} x {chip.name}, mesh " + " x ".join(f"{n} {s}" for n, s in plan.mesh.items()),
        "",
        verdict(plan),
        "",
        f"Micro-batch: {plan.shape.rows:,} rows of {plan.shape.tokens:,} tokens, {plan.tokens:,} tokens a device",
    ]
    if plan.max_rows is not None:
        most = plan.max_rows * plan.shape.tokens
        lines.append(f"Largest that fits: {plan.max_rows} rows a device, {most:,} tokens (found by compiling)")
    if plan.programs:
        lines += ["", "Memory of a device at its worst moment:"]
        lines += [f"  {name:<30}{bytes_ / GIB:8.2f} GiB" for name, bytes_ in plan.where().items()]
        lines += ["", f"{'Program':<12}{'peak':>10}{'+ idle moments':>17}{'compiled in':>14}"]
        lines += [
            f"  {name:<10}{p.peak / GIB:6.2f} GiB{p.resident / GIB:13.2f} GiB{p.seconds:12.0f} s"
            for name, p in plan.programs.items()
        ]
    lines += [f"  {one.name:<10}does not fit: {one.reason}" for one in plan.refused]
    lines += ["", f"Scoring: {scoring(plan)}"]
    if plan.moved:
        lines += ["", "Collectives of a micro-batch (whole arrays, per device):"]
        lines += [
            f"  {m.kind:<20}{m.count:6,} {m.bytes / GIB:10.2f} GiB   {m.overlapped:4.0%} beside computation"
            for m in plan.moved
        ]
    t = plan.trees
    lines += [
        "",
        f"A comparison: {t.tokens:,.0f} tokens, {t.visible:,.0f} visible pairs of tokens ({t.source})",
        f"  {plan.per_comparison.total / 1e12:.2f} model TFLOP, of which attention "
        f"{plan.per_comparison.attention / plan.per_comparison.total:.0%}, without what remat computes again",
        f"A step of {plan.batch:,}: {duration(plan.step.at_peak)} at the datasheet's peak, "
        f"{duration(plan.step.at_half)} at half of it (bounds from datasheets, not measurements)",
    ]
    return "\n".join([*lines, "", f"Start it:  {plan.command}"])


def verdict(plan: Plan) -> str:
    """Fits or not, in one line."""
    usable = plan.topology.chip.usable / GIB
    if plan.refused:
        return f"DOES NOT FIT: {', '.join(one.name for one in plan.refused)} exceed the {usable:.2f} GiB of a device"
    says = "FITS" if plan.fits else "DOES NOT FIT"
    return f"{says}: {plan.peak / GIB:.2f} of {usable:.2f} GiB a device"


def scoring(plan: Plan) -> str:
    """What the scorer's program takes, which the run's peak does not hold."""
    made = plan.scoring
    if isinstance(made, DoesNotFit):
        return f"does not fit: {made.reason}"
    return f"{made.peak / GIB:.2f} GiB a device, a row of {plan.shape.tokens:,} tokens each, compiled in {made.seconds:.0f} s"


def duration(seconds: float) -> str:
    """Seconds, or minutes from a hundred and twenty seconds on."""
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.1f} s"
