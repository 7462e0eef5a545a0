"""How every plot looks: colours that the colour-blind can tell apart (Okabe and Ito), quiet frames."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skyrm_jax.report.files import whole

BLUE, ORANGE, GREEN, PURPLE, BLACK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#222222", "#8A8A8A"

SETTINGS: Any = {  # matplotlib types each key of its settings
    "figure.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "xtick.color": BLACK,
    "ytick.color": BLACK,
}


@contextmanager
def canvas(path: Path, panels: int, width: float, height: float) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with `panels` axes side by side (inches), written to `path` whole or not at all on leaving."""
    # A Figure made without pyplot draws with Agg, needs no display and leaves a notebook's own backend alone.
    with rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, list(figure.subplots(1, panels, squeeze=False)[0])
        with whole(path) as temporary:
            figure.savefig(temporary)
