"""What a run shows of itself while it goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from skyrm_jax.config import TrainConfig
from skyrm_jax.train.logs import Logs


def test_before_the_first_record_there_is_nothing_to_draw(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    config = replace(config, run=replace(config.run, out=str(out)))
    with Logs(config, 0, 4, 0.0, Console(quiet=True)) as logs:
        logs.publish(last=True)
        assert (out / "run.html").is_file() and not (out / "training.png").exists()
        rates = {"pairs_per_second": 1.0, "tokens_per_second": 9.0}
        logs.write(1, {"step": 1, "loss": 0.7, "accuracy": 0.5} | rates, kept=True)
        logs.publish(last=True)
        assert (out / "training.png").is_file()
    assert "could not be written" not in "".join(capsys.readouterr())
