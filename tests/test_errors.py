"""How a command ends: one line for what the user can mend, a traceback for a bug."""

from collections.abc import Callable
from pathlib import Path

import pytest

from skyrm_jax.data.synthetic.__main__ import main as synthetic
from skyrm_jax.errors import UserError, run_command


def fails(error: Exception) -> Callable[[list[str] | None], None]:
    def main(arguments: list[str] | None) -> None:
        raise error

    return main


def test_a_user_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(fails(UserError("mend it"))) == 2
    assert capsys.readouterr().err == "error: mend it\n"


def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out.jsonl"
    assert run_command(lambda _: synthetic(["--out", str(out), "--count", "1"])) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'file'}: File exists; ") and said.count("\n") == 1


@pytest.mark.parametrize("error", [OSError("a socket's"), ValueError("a bug")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_command(fails(error))


def test_tracebacks_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYRM_TRACEBACK", "1")
    for error in (UserError("x"), FileNotFoundError(2, "No such file", "x")):
        with pytest.raises(type(error)):
            run_command(fails(error))
