"""The benchmarks' bench: what is measured once is not measured again, and is used for nothing else."""

from functools import partial
from pathlib import Path

from bench_eval import Measured, ratio


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "windows.jsonl"
    calls: list[int] = []

    def measure(number: int) -> dict[str, float]:
        calls.append(number)
        return {"ours": number, "theirs": 2 * number}

    measured = Measured(file, layers=4)
    assert [measured(partial(measure, n), start=n)["ours"] for n in (1, 2, 1)] == [1, 2, 1] and calls == [1, 2]
    with file.open("a") as stream:
        stream.write('{"asked": {"layers": 4, "start"')
    again = Measured(file, layers=4)
    assert [again(partial(measure, n), start=n)["ours"] for n in (1, 2, 3)] == [1, 2, 3] and calls == [1, 2, 3]
    assert Measured(file, layers=4)(lambda: measure(9), start=3) == {"ours": 3, "theirs": 6}
    Measured(file, layers=28)(lambda: measure(4), start=1)
    Measured(None, layers=4)(lambda: measure(5), start=1)
    assert calls == [1, 2, 3, 4, 5]


def test_the_ratio_is_of_all_seconds() -> None:
    assert ratio([(1.0, 3.0), (9.0, 12.0)]) == 1.5
