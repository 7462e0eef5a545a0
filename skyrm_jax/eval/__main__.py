"""`python -m skyrm_jax.eval`: benchmarks and held-out comparisons to figures. See `--help`."""

import sys

from skyrm_jax.errors import run_command
from skyrm_jax.eval.cli import main

if __name__ == "__main__":
    sys.exit(run_command(main))
