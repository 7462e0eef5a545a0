"""`python -m skyrm_jax.prepare`."""

import sys

from skyrm_jax.errors import run_command
from skyrm_jax.prepare.options import parse_options
from skyrm_jax.prepare.run import prepare


def main(argv: list[str] | None = None) -> None:
    """The command."""
    prepare(parse_options(argv))


if __name__ == "__main__":
    sys.exit(run_command(main))
