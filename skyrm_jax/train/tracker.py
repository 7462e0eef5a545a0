"""Weights & Biases, for those who ask for it with `run.wandb`."""

import secrets
from types import TracebackType
from typing import Any

from etils import epath

from skyrm_jax.config import TrainConfig
from skyrm_jax.errors import UserError

ID_FILE = "wandb_id"
"""In the run's folder: what W&B calls the run. The folder's name would not do: another run may have had it."""


class Tracker:
    """Sends records to the W&B project `run.wandb`; does nothing if that is not given. Use it in a `with` block.

    Args:
        config: of the run.
        start: the steps done already: with some the run of before goes on in W&B, with none a new one begins.

    Raises:
        UserError: on entering, if the package is missing or W&B does not let the run begin.
    """

    def __init__(self, config: TrainConfig, start: int) -> None:
        self._config, self._start = config, start
        self._run: Any = None

    def __enter__(self) -> "Tracker":
        if self._config.run.wandb is None:
            return self
        try:
            import wandb
        except ImportError as error:
            raise UserError('run.wandb needs the package wandb: pip install "skyrm-jax[wandb]"') from error
        try:
            self._run = wandb.init(
                project=self._config.run.wandb,
                id=self._id(),
                name=self._config.run.out,
                resume="allow",
                config=self._config.as_dict(),
            )
        except wandb.Error as error:
            raise UserError(
                f"run.wandb: W&B does not let the run begin ({error}); log in, or set WANDB_MODE=offline and send it later "
                "with `wandb sync`"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if kind is None else 1)

    def write(self, step: int, record: dict[str, Any]) -> None:
        """One record; steps that W&B has from before an interruption are kept as it has them."""
        if self._run is not None:
            self._run.log({name: value for name, value in record.items() if value is not None}, step=step)

    def _id(self) -> str:
        folder = epath.Path(self._config.run.out)
        path = folder / ID_FILE
        if self._start and path.exists():
            return path.read_text().strip()
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(name := secrets.token_hex(8))
        return name
