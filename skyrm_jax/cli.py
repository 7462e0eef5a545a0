"""The console script `skyrm`: one name for all commands, importing only the one that is asked for."""

import sys
from importlib import import_module

from skyrm_jax import __version__
from skyrm_jax.errors import UserError, run_command

COMMANDS = {
    "prepare": ("skyrm_jax.prepare.__main__", "preference files to a tokenised store"),
    "train": ("skyrm_jax.train.__main__", "train a reward model with the Bradley-Terry loss"),
    "plan": ("skyrm_jax.plan.cli", "does the job fit these chips, and what limits it? without the chips"),
    "eval": ("skyrm_jax.eval.__main__", "score benchmarks and held-out comparisons"),
    "score": ("skyrm_jax.score", "rewards for every response of a file"),
    "doctor": ("skyrm_jax.doctor.cli", "is a checkpoint read the same everywhere? is a store whole?"),
    "curate": ("skyrm_jax.curate.cli", "curate preference pairs with people and models"),
    "annotate": ("skyrm_jax.annotate.cli", "a page on which people verify preference pairs"),
    "convert": ("skyrm_jax.convert.__main__", "Hugging Face and GGUF models in, Hugging Face models out"),
}
"""Command -> (the module whose `main(arguments)` runs it, what it does)."""


def usage() -> str:
    """The text of `skyrm --help`."""
    commands = "\n".join(f"  {name:<9}{text}" for name, (_, text) in COMMANDS.items())
    return (
        f"skyrm {__version__}: Bradley-Terry reward models in JAX\n\n"
        f"usage: skyrm COMMAND ...\n\ncommands:\n{commands}\n\n"
        "`skyrm COMMAND --help` explains a command; `skyrm --version` prints the version."
    )


def dispatch(arguments: list[str] | None = None) -> None:
    """Runs the command named first in `arguments`. Raises UserError if there is no such command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
    elif arguments[0] in ("-V", "--version"):
        print(f"skyrm-jax {__version__}")
    elif arguments[0] not in COMMANDS:
        raise UserError(f"there is no command {arguments[0]!r}: choose from {', '.join(COMMANDS)}")
    else:
        import_module(COMMANDS[arguments[0]][0]).main(arguments[1:])


def main() -> int:
    """Entry point of the console script: the exit code."""
    return run_command(dispatch)


if __name__ == "__main__":
    sys.exit(main())
