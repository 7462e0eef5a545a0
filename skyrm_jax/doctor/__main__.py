"""`python -m skyrm_jax.doctor CHECKPOINT`."""

import sys

from skyrm_jax.doctor.cli import main
from skyrm_jax.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
