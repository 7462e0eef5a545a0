"""`python -m skyrm_jax.annotate --store DIR`."""

import sys

from skyrm_jax.annotate.cli import main
from skyrm_jax.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
