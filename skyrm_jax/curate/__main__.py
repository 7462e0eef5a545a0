"""`python -m skyrm_jax.curate STEP --config FILE`."""

import sys

from skyrm_jax.curate.cli import main
from skyrm_jax.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
