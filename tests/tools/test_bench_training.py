"""The training benchmark at a tiny size: both sides do the same work from the same weights. Times are not looked at."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyrm_jax.chat import Chat, build_tree
from skyrm_jax.comparison import Comparison, Message

TINY = ["--width", "8", "--layers", "1", "--pairs", "8", "--batch", "4", "--rounds", "1", "--loss-layers", "1"]


@pytest.fixture
def bench(tool: Any) -> Any:
    return tool("bench_training")


@pytest.fixture
def run(bench: Any, tmp_path: Path, shared: Path) -> Any:
    """The figures of a section."""
    for name in ("trl", "accelerate", "datasets"):
        pytest.importorskip(name, reason="the comparison with TRL needs trl")

    def figures(section: str, *arguments: str) -> dict[str, Any]:
        out = tmp_path / "out" / "figures.json"
        where = ["--shared", str(shared), "--scratch", str(tmp_path), "--json", str(out)]
        bench.main([*TINY, "--only", section, *where, *arguments])
        assert [path.name for path in tmp_path.iterdir()] == ["out"]  # what was made is gone
        return json.loads(out.read_text())

    return figures


@pytest.mark.full
def test_training_does_the_same_pairs_on_both_sides(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = run("training", "--trl", '{"settings": {"per_device_train_batch_size": 2}}')  # tokens too: or it ends
    low, high = found["training_spread"]
    assert 0 < low <= found["training"] <= high
    assert found["training_trl"]["settings"]["per_device_train_batch_size"] == 2
    assert found["training_trl"]["settings"]["bf16"] is True
    assert found["ours_slots_per_pair"] > 0 < found["trl_slots_per_pair"]
    assert ">= 1.6" in capsys.readouterr().out


@pytest.mark.full
def test_the_losses_of_both_sides_agree(run: Any) -> None:
    found = run("loss", "--steps", "6", "--loss-pairs", "8", "--loss-batch", "4", "--loss-rate", "1e-3")
    assert found["loss_steps"] == 6
    assert 0 < found["max_loss_gap"] < 1e-4
    curves = found["loss_curves"]
    assert np.abs(np.subtract(curves["ours"], curves["trl"])).max() == found["max_loss_gap"]
    assert len(set(curves["ours"])) == 6 and found["loss_fall"] > 0.01  # the weights move


def pairs(count: int) -> list[Comparison]:
    return [
        Comparison.of(f"question {n}", [f"answer {n} " + "x" * n, f"no {n}"], preferences=[(0, 1)])
        for n in range(count)
    ]


def test_trl_reads_the_pairs_in_the_order_of_our_schedule(
    bench: Any, byte_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {}

    class Stop(Exception):
        pass

    def both(ours: Any, trl: Any, folder: Path, device: str) -> Any:
        told.update(ours=ours, trl=trl)
        raise Stop

    monkeypatch.setattr(bench, "both", both)
    monkeypatch.setattr(bench, "hh_rlhf", lambda shared: pairs(11))
    arguments = ["--only", "loss", "--shared", str(tmp_path), "--tokenizer", str(byte_tokenizer)]
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(bench.tempfile, "TemporaryDirectory", lambda dir: Kept(tmp_path))
    with pytest.raises(Stop):
        bench.main([*arguments, "--steps", "5", "--loss-pairs", "8", "--loss-batch", "4"])

    ours, trl = told["ours"], told["trl"]
    store = bench.Store.open(ours["store"])
    schedule = bench.Schedule.of(store.index.training(), ours["batch"], ours["epochs"], seed=0)
    lines = [json.loads(line) for line in Path(trl["source"]).read_text().splitlines()]
    chat = Chat.load(str(byte_tokenizer))
    ids = [n for step in range(5) for n in schedule.ids_of(step).tolist()]
    assert len(lines) == len(ids) == 20 and len(set(ids)) == 8
    for line, stored in zip(lines, store.read(np.array(ids)), strict=True):
        sides = [[Message(**message) for message in line[side]] for side in ("chosen", "rejected")]
        assert list(stored.tree.tokens) == list(build_tree(chat.encode(sides), chat.pad_token_id).tokens)
    assert trl["settings"]["train_sampling_strategy"] == "sequential" and not trl["settings"]["bf16"]
    assert trl["settings"]["per_device_train_batch_size"] == ours["batch"]
    assert ours["architecture"]["pad_token_id"] == chat.tokenizer.pad_token_id


class Kept:
    """A temporary folder that stays."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> str:
        return str(self.folder)

    def __exit__(self, *_: Any) -> None:
        pass


def test_training_figures_compare_round_by_round(bench: Any) -> None:
    def turn(seconds: float, cpu: float, slots: int) -> dict[str, Any]:
        return {"seconds": seconds, "cpu_seconds": cpu, "pairs": 8, "slots": slots, "idle_cpu_seconds": 0.5}

    rounds = [(turn(1, 2, 80), turn(2, 6, 160)), (turn(2, 2, 80), turn(6, 6, 160)), (turn(4, 2, 80), turn(4, 6, 160))]
    found = bench.training_figures(rounds)
    assert found["training"] == 2 and found["training_spread"] == [1, 3]
    assert found["training_per_cpu_second"] == 3
    assert (found["ours_pairs_per_second"], found["trl_pairs_per_second"]) == (4, 2)
    assert (found["ours_slots_per_pair"], found["trl_slots_per_pair"]) == (10, 20)
    assert found["ours_idle_cpu_seconds"] == 1.5


def test_loss_figures_take_the_curve_that_falls_less(bench: Any) -> None:
    ours, theirs = [0.8, 0.7, *[0.5] * 5], [0.8, 0.69, *[0.52] * 5]
    found = bench.loss_figures(ours, theirs)
    assert found["max_loss_gap"] == pytest.approx(0.02) and found["max_loss_gap_step"] == 3
    assert found["loss_fall"] == pytest.approx(0.28)
    with pytest.raises(ValueError):
        bench.loss_figures(ours, theirs[1:])


def test_pairs_are_sampled_from_all_of_the_file(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = pairs(10)
    monkeypatch.setattr(bench, "hh_rlhf", lambda shared: everything)
    assert bench.sample(Path(), 4) == [everything[n] for n in (0, 2, 5, 7)]
    with pytest.raises(SystemExit, match="holds 10 pairs, fewer than 11"):
        bench.sample(Path(), 11)


def test_a_narrower_model_keeps_its_shape(bench: Any, byte_tokenizer: Path) -> None:
    model = bench.model_of(4, 2, str(byte_tokenizer))
    assert (model.layers, model.hidden, model.mlp, model.heads, model.kv_heads) == (4, 512, 1536, 8, 4)
    assert (model.head_dim, model.vocab_size, model.pad_token_id) == (128, 151936, 0)


def test_a_side_says_what_each_turn_took_and_sleeps_between(bench: Any, tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(Path(bench.__file__).parent)!r})\n"
        "from bench_training_sides import Turns\n"
        "turns = Turns(); print('not for the parent'); turns.say({'ready': True}); turns.wait()\n"
        "for n in range(100): turns.after_step([n, n + 1], pairs=2, tokens=10, slots=12)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None

        def turn(steps: int) -> dict[str, Any]:
            process.stdin.write(json.dumps({"steps": steps}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        assert json.loads(process.stdout.readline()) == {"ready": True}
        first, second = turn(2), turn(1)
        assert first["losses"] == [0.5, 1.5] and second["losses"] == [2.5]
        assert (first["pairs"], first["tokens"], first["slots"]) == (4, 20, 24) and second["pairs"] == 2
        assert all(one[name] >= 0 for one in (first, second) for name in ("seconds", "cpu_seconds", "idle_cpu_seconds"))
        process.stdin.close()
        assert process.wait() == 0
        assert "not for the parent" in process.stderr.read()


def test_without_trl_it_says_how_to_get_it(bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None if name == "trl" else name)
    with pytest.raises(SystemExit, match="trl not installed: pip install trl"):
        bench.main(["--shared", str(tmp_path)])


def test_rounds_are_whole(bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(SystemExit, match="--pairs must be a multiple of --batch"):
        bench.main(["--shared", str(tmp_path), "--only", "training", "--pairs", "10", "--batch", "4"])
