"""`python -m skyrm_jax.plan`."""

import sys

from skyrm_jax.errors import run_command
from skyrm_jax.plan.cli import main

if __name__ == "__main__":
    sys.exit(run_command(main))
