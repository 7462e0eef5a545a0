"""The configs for whole slices, and the table of their plans; the TPU compiler itself only in the full suite."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from skyrm_jax.chips import GIB
from skyrm_jax.config import parse_train_config
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture

MODELS = {
    *("qwen3_0.6b", "qwen3_1.7b", "qwen3_4b", "qwen3_8b"),
    *("llama3.2_1b", "llama3.2_3b", "llama3.1_8b", "llama3.1_8b_40m"),
}
CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted((CONFIGS / "pods").glob("*.yaml"))
LIBTPU = importlib.util.find_spec("libtpu") is not None


@pytest.fixture(scope="module")
def plan_table(tool: Callable[[str], ModuleType]) -> Any:
    return tool("plan_table")


def plan(config: str, remat: str, gib: float, usable: float = 15.75, **changed: Any) -> dict[str, Any]:
    """What `skyrm plan` says, as far as the table reads it."""
    return {
        "config": config,
        "remat": remat,
        "fits": gib <= usable,
        "peak_bytes": gib * GIB,
        "usable_bytes": usable * GIB,
        "row_tokens": 16384,
        "max_rows_per_device": None,
        "refused": [],
        "scoring": {"peak_bytes": 0.5 * GIB, "compile_seconds": 9.0},
        "programs": {"first": {"compile_seconds": 40.2}, "add": {"compile_seconds": 61.7}},
        "comparison": {"model_flops": 43.6e12},
        "roofline_step_seconds": {"at_100_percent": 70.0, "at_50_percent": 140.0},
    } | changed


def test_every_model_has_a_slice_of_every_generation(plan_table: Any) -> None:
    assert {pod.file for pod in plan_table.ALL} == set(FILES) and len(FILES) == 24
    assert {(pod.base, pod.topology.split(":")[0]) for pod in plan_table.ALL} == {
        (model, generation) for model in MODELS for generation in ("v5e", "v5p", "v6e")
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_is_its_base_but_for_what_the_slice_decides(plan_table: Any, file: Path) -> None:
    (pod,) = (pod for pod in plan_table.ALL if pod.file == file)
    config = parse_train_config(["--config", str(file)])
    base = parse_train_config(["--config", str(CONFIGS / f"{pod.base}.yaml")])
    assert config.run.out == f"runs/{file.stem}" and config.model.remat in plan_table.POLICIES
    assert (config.mesh.data, config.mesh.model) == (1, 1)
    generation, shape = pod.topology.split(":")
    assert file.stem == f"{pod.base}_{generation}_{shape}" and config.mesh.fsdp == eval(shape.replace("x", "*"))
    same = replace(config, model=replace(config.model, remat=base.model.remat), mesh=base.mesh)
    assert replace(same, run=replace(same.run, out=base.run.out)) == base
    assert (config.optimizer.batch, config.data.max_tokens, max(config.data.row_lengths)) == (10240, 16384, 16384)
    # The file is what the tool writes, comments and commands included.
    text = file.read_text()
    assert text == pod.text(config.model.remat)
    assert f"skyrm plan --config configs/pods/{file.name} --topology {pod.topology}\n" in text


def test_the_policy_that_keeps_the_most_and_leaves_room_is_chosen(plan_table: Any) -> None:
    (pod,) = (pod for pod in plan_table.ALL if pod.name == "qwen3_0.6b_v5e_2x4")
    tried: list[str] = []

    def chosen(**gib: float) -> str:
        def made(pod: Any, text: str) -> dict[str, Any]:
            tried.append(yaml.safe_load(text)["model"]["remat"])
            return plan(pod.name, tried[-1], gib[tried[-1]])

        tried.clear()
        return plan_table.choose(pod, made)

    assert chosen(minimal=14.9) == "minimal"
    assert chosen(minimal=15.0, attention=5.4) == "attention" and tried == ["minimal", "attention"]
    assert chosen(minimal=20, attention=15.1, full=4) == "full"
    with pytest.raises(UserError, match=r"qwen3_0.6b_v5e_2x4: no policy leaves 5% of a chip; choose a larger slice"):
        chosen(minimal=20, attention=16, full=15.2)
    # 8B under minimal keeps 47 GiB of 16,384 tokens: not even asked for on a chip of 15.75.
    (pod,) = (pod for pod in plan_table.ALL if pod.name == "qwen3_8b_v5e_16x16")
    assert chosen(attention=12) == "attention" and tried == ["attention"]


def test_what_a_policy_keeps(plan_table: Any) -> None:
    architecture = plan_table.stated_architecture(parse_train_config(["--config", str(CONFIGS / "qwen3_0.6b.yaml")]))
    assert isinstance(architecture, Architecture)
    values = {"full": 1024, "attention": 1024 + 2048, "minimal": 1024 + 2048 + (2048 + 2 * 1024) + 1024 + 2 * 3072}
    assert {remat: plan_table.kept(architecture, remat, 10) for remat in values} == {
        remat: 2 * 28 * 10 * count for remat, count in values.items()
    }


def test_the_table(plan_table: Any) -> None:
    pods = {pod.name: pod for pod in plan_table.ALL}
    eight = plan("llama3.1_8b_v5e_16x16", "attention", 12.345)
    small = plan("qwen3_0.6b_v6e_2x4", "full", 32.0, 31.25, scoring={"refused": "Used 40G"}, programs={})
    planned = [
        (pods["qwen3_0.6b_v6e_2x4"], small),
        (pods["llama3.1_8b_v5e_16x16"], eight),
        (pods["llama3.1_8b_40m_v5e_16x16"], eight),
    ]
    lines = plan_table.table(planned).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert "Most tokens a chip" not in cells[0] and set(cells[1]) == {"---"}
    step = "70.0 s / 2.3 min"
    assert cells[2:] == [
        ["qwen3_0.6b", "v6e 2x4", "8", "full", "32.00 / 31.25 DOES NOT FIT", "does not fit", "43.60", step, ""],
        [
            "llama3.1_8b, llama3.1_8b_40m",
            *("v5e 16x16", "256", "attention", "12.35 / 15.75", "0.50", "43.60", step, "62 s"),
        ],
    ]
    searched = plan_table.table([(pods["llama3.1_8b_v5e_16x16"], eight | {"max_rows_per_device": 2})])
    assert "Most tokens a chip" in searched and "| 32,768 |" in searched


@pytest.mark.parametrize("same_versions", [True, False])
def test_an_interrupted_run_goes_on_where_it_was(
    plan_table: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    same_versions: bool,
) -> None:
    """Each plan is written as it is made; programs that are known, under whatever name, are not compiled."""
    made: list[str] = []

    def fake(pod: Any, config: Path, search: bool) -> dict[str, Any]:
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(pod.name)
        return plan(pod.name, "full", 3.0)

    monkeypatch.setattr(plan_table, "version", lambda package: "1")
    monkeypatch.setattr(plan_table, "_made", fake)
    out = tmp_path / "plans.json"
    names = ["llama3.1_8b_v5e_16x16", "llama3.1_8b_40m_v5e_16x16", "qwen3_4b_v6e_4x4"]
    with pytest.raises(KeyboardInterrupt):
        plan_table.main(["--only", *names, "--json", str(out)])
    assert made == ["qwen3_4b_v6e_4x4"] and [one["config"] for one in json.loads(out.read_text()).values()] == made
    monkeypatch.setattr(plan_table, "_made", lambda pod, *_: made.append(pod.name) or plan(pod.name, "full", 3.0))
    if not same_versions:
        monkeypatch.setattr(plan_table, "version", lambda package: "2")
    plan_table.main(["--only", *names, "--json", str(out), "--resume", str(out)])
    again = [] if same_versions else ["qwen3_4b_v6e_4x4"]
    assert made == ["qwen3_4b_v6e_4x4", *again, "llama3.1_8b_v5e_16x16"]
    assert "| llama3.1_8b, llama3.1_8b_40m | v5e 16x16 |" in capsys.readouterr().out


def test_a_name_that_is_none(plan_table: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        plan_table.main(["--only", "llama3.1_9b"])
    assert "no such config: llama3.1_9b; choose from qwen3_0.6b, " in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.skipif(not LIBTPU, reason="the TPU compiler is not installed: libtpu")
def test_a_small_model_is_written_and_planned(
    plan_table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = (CONFIGS / "qwen3_0.6b.yaml").read_text()
    for name, value in {"num_hidden_layers: 28": 2, "_tokens: 16384": 1024}.items():
        base = base.replace(name, f"{name.split(':')[0]}: {value}")
    base = base.replace("[16384, 8192, 2048]", "1024").replace("qwen3_0.6b", "tiny")
    (tmp_path / "tiny.yaml").write_text(base)
    monkeypatch.setattr(plan_table, "CONFIGS", tmp_path)
    monkeypatch.setattr(plan_table, "PODS", tmp_path / "pods")
    monkeypatch.setattr(plan_table, "ALL", [plan_table.Pod("tiny", "v5e:2x2")])
    out = tmp_path / "plans.json"
    plan_table.main(["--write", "--json", str(out)])
    (made,) = json.loads(out.read_text()).values()
    assert made["fits"] and made["remat"] == "minimal" and made["tokens_per_device"] == 1024
    assert set(made["programs"]) == {"first", "add", "update", "evaluate"} and made["max_rows_per_device"] is None
    written = parse_train_config(["--config", str(tmp_path / "pods" / "tiny_v5e_2x2.yaml")])
    assert (written.mesh.fsdp, written.model.remat) == (4, "minimal")
    first = capsys.readouterr().out
    assert "| tiny | v5e 2x2 | 4 | minimal |" in first
    plan_table.main(["--resume", str(out)])
    assert capsys.readouterr().out == first
