"""`python -m skyrm_jax.convert from-hf|from-gguf|to-hf|average ...`"""

import sys

from skyrm_jax.convert.cli import main
from skyrm_jax.errors import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
