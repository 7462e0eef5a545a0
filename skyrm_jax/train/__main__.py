"""`python -m skyrm_jax.train --config configs/X.yaml [overrides]`."""

import sys
from collections.abc import Sequence

from skyrm_jax.config import parse_train_config
from skyrm_jax.errors import run_command


def main(argv: Sequence[str] | None = None) -> None:
    config = parse_train_config(argv)
    # Imported late, so that a mistake in the config is answered at once.
    from skyrm_jax import distributed
    from skyrm_jax.train import run

    distributed.start()
    with distributed.failing_together():
        run(config)


if __name__ == "__main__":
    sys.exit(run_command(main))
