"""Where figures go: the metrics file, TensorBoard's events, and the progress line."""

import io
import json
import re
from pathlib import Path

from rich.console import Console

from skyrm_jax.train.metrics import METRICS_FILE, MetricsLog, ProgressDisplay

RECORD = {"loss": 0.5, "accuracy": 0.75, "pairs_per_second": 12.34, "tokens_per_second": 5678.9}


def test_records_go_to_the_file_and_to_tensorboard(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, RECORD)
    log.close()
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    for name in RECORD:
        assert events.count(name.encode()) == 3
    MetricsLog(tmp_path, 1).close()
    assert [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()] == [{"step": 1, **RECORD}]


def test_a_progress_line_has_step_figures_and_eta() -> None:
    told = io.StringIO()
    with ProgressDisplay(30, 10, Console(file=told, force_terminal=False, width=200)) as progress:
        progress._began -= 60.0
        progress.show(11, RECORD)
        progress.show(12, RECORD)  # too soon for another line
    line = r"step 11/30  loss 0\.5000  accuracy 0\.750  12\.3 pairs/s  5,679 tokens/s  ETA 19:0\d\n"
    assert re.fullmatch(line, told.getvalue())


def test_a_terminal_gets_a_bar_with_the_same_figures() -> None:
    told = io.StringIO()
    with ProgressDisplay(30, 10, Console(file=told, force_terminal=True, width=200)) as progress:
        progress.show(11, RECORD)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", told.getvalue())
    assert re.search(r"step 11/30 .*loss 0\.5000  accuracy 0\.750  12\.3 pairs/s  5,679 tokens/s.*ETA", shown)
