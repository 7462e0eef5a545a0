"""The console script: help, version, a clear answer to a wrong name, and nothing imported that was not asked for."""

import importlib.util
import subprocess
import sys

import pytest

from skyrm_jax import __version__, cli
from skyrm_jax.errors import UserError


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["help"]):
        cli.dispatch(arguments)
        text = capsys.readouterr().out
        for command in cli.COMMANDS:
            assert f"\n  {command} " in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    cli.dispatch(["--version"])
    assert capsys.readouterr().out == f"skyrm-jax {__version__}\n"


def test_unknown_command_names_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=f"no command 'trian': choose from {', '.join(cli.COMMANDS)}"):
        cli.dispatch(["trian"])
    monkeypatch.setattr(sys, "argv", ["skyrm", "trian"])
    assert cli.main() == 2
    assert capsys.readouterr().err.startswith("error: there is no command 'trian'")


def test_the_rest_of_the_line_goes_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str] | None] = []
    monkeypatch.setattr("skyrm_jax.score.main", seen.append)
    cli.dispatch(["score", "in", "--checkpoint", "x"])
    assert seen == [["in", "--checkpoint", "x"]]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_its_module(command: str) -> None:
    assert importlib.util.find_spec(cli.COMMANDS[command][0]) is not None


def test_help_imports_neither_jax_nor_other_commands() -> None:
    code = (
        "import sys; from skyrm_jax import cli; cli.dispatch(['--help']); "
        "bad = {'jax', 'transformers', 'pyarrow', 'matplotlib', 'skyrm_jax.eval', 'skyrm_jax.train'} & set(sys.modules); "
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
