"""The doctor: what is ill is found and named, what is well is left alone."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from rich.console import Console

from skyrm_jax.chat import Chat
from skyrm_jax.convert.hf_export import write_hf
from skyrm_jax.convert.streamed import write_checkpoint
from skyrm_jax.convert.weights import MemoryWeights
from skyrm_jax.data import bpe
from skyrm_jax.doctor import against
from skyrm_jax.doctor.against import SAMPLES, Dtype, Pair, bfloat16_step
from skyrm_jax.doctor.checks import admit, rope
from skyrm_jax.doctor.cli import main
from skyrm_jax.doctor.dialects import by_reader
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.parameters import map_table
from skyrm_jax.models.rope import inv_freq
from skyrm_jax.prepare import PrepareOptions, prepare
from skyrm_jax.scorer import Scorer

LLAMA3 = Rope("llama3", 5e5, 8.0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    bpe.save(bpe.train(["Jane has 12 apples left"] * 3, vocabulary=300), folder)
    return folder


def weights(rope: Rope = LLAMA3, scale: float = 0.2) -> MemoryWeights:
    architecture = Architecture("llama", 300, 32, 48, 2, 4, 2, 8, False, 1e-5, rope, 16384, 0)
    rng = np.random.default_rng(0)
    params = map_table(architecture, lambda _, spec: rng.normal(0, 0.2, spec.shape).astype(np.float32))
    return MemoryWeights.of(architecture, params | {"score": params["score"] * np.float32(scale)})


def hf(folder: Path, tokenizer: Path, **changes: Any) -> Path:
    write_hf(folder, weights(), tokenizer)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}))
    return folder


def damage(folder: Path, name: str) -> None:
    """Makes the first number of a tensor NaN."""
    file = folder / "model.safetensors"
    raw = bytearray(file.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    at = json.loads(raw[8 : 8 + length])[name]["data_offsets"][0] + 8 + length
    raw[at : at + 4] = np.float32(np.nan).tobytes()
    file.write_bytes(raw)


def report(source: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    """Exit status, and what --json gives."""
    status = 0
    try:
        main([str(source), "--json", "-", *options])
    except SystemExit as stop:
        status = int(stop.code or 0)
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert record["well"] == (status == 0)
    return status, record


def findings(source: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    """Exit status, and findings by name."""
    status, record = report(source, capsys, *options)
    return status, {finding["name"]: finding for finding in record["findings"]}


def test_a_good_checkpoint_is_well_in_both_forms(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(tmp_path / "ours", weights(), tokenizer, {})
    for source in (hf(tmp_path / "hf", tokenizer), tmp_path / "ours"):
        status, found = findings(source, capsys, "--weights")
        assert status == 0, found
        assert found["RoPE"]["value"].endswith("llama3 x8 (1, 4, 8192) for all three readers")
        assert found["scored token"]["value"].endswith("[\\n]"), found["scored token"]
        assert found["reward head"]["value"].startswith("score.weight float32 [1, 32]")
        assert found["think block"]["value"] == "none" and "all finite" in found["weights"]["value"]


def test_the_table_says_what_to_do(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(hf(tmp_path / "hf", tokenizer, rope_theta="gone", rope_scaling="gone"))])
    out = " ".join(capsys.readouterr().out.split())
    assert "skyrm convert to-hf" in out and "1 of" in out


@pytest.mark.parametrize(
    ("changes", "name", "status", "words"),
    [
        ({"rope_theta": "gone", "rope_scaling": "gone"}, "RoPE", "ill", "transformers 4: theta 10,000"),
        ({"rope_parameters": "gone"}, "RoPE", "well", "theta 500,000"),
        ({"problem_type": "gone"}, "problem type", "note", "None"),
        ({"pad_token_id": 100}, "pad token", "ill", "ordinary token"),
        ({"pad_token_id": None}, "pad token", "ill", "none"),
    ],
)
def test_what_is_wrong_is_found(
    tmp_path: Path,
    tokenizer: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    name: str,
    status: str,
    words: str,
) -> None:
    code, found = findings(hf(tmp_path / "hf", tokenizer, **changes), capsys)
    assert found[name]["status"] == status and words in found[name]["value"], found[name]
    assert (code == 1) == (status == "ill") and bool(found[name]["remedy"]) == (status != "well")


def test_an_untrained_head_is_ill(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "ours", weights(scale=0.0), tokenizer, {})
    assert findings(tmp_path / "ours", capsys)[1]["reward head"]["status"] == "ill"


def test_a_changed_template_is_ill(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "ours", weights(), tokenizer, {"template_hash": "0" * 64})
    found = findings(tmp_path / "ours", capsys)[1]["chat template"]
    assert found["status"] == "ill" and "0" * 64 in found["value"]


def test_a_damaged_tensor_is_ill(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = hf(tmp_path / "hf", tokenizer)
    damage(folder, "model.norm.weight")
    assert findings(folder, capsys)[0] == 0  # the quick look reads the head only
    found = findings(folder, capsys, "--weights")[1]["weights"]
    assert found["status"] == "ill" and "model.norm.weight" in found["value"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_theta": 1e4}, "dialects disagree"),
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 2}, "2 labels"),
        ({"num_hidden_layers": 3, "layer_types": "gone"}, "missing"),
        ({"vocab_size": 301}, "shape"),
        ({"rope_scaling": "x"}, "rope_scaling"),
        ({"rope_theta": "x"}, "rope_theta"),
        ({"rope_parameters": "x"}, "rope_parameters"),
    ],
)
def test_what_cannot_even_be_opened_is_a_finding(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    status, found = findings(hf(tmp_path / "hf", tokenizer, **changes), capsys)
    assert status == 1 and words in found["opening it"]["value"]
    if changes.get("rope_theta") == 1e4:
        assert "transformers 4: theta 10,000" in found["RoPE"]["value"] and found["RoPE"]["status"] == "ill"


def test_what_is_no_checkpoint_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = findings(tmp_path, capsys)
    assert status == 1 and "config.json is missing" in found["opening it"]["value"]


def test_a_head_that_is_nan_is_a_finding(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = hf(tmp_path / "hf", tokenizer)
    damage(folder, "score.weight")
    status, found = findings(folder, capsys)
    assert status == 1 and "score.weight has 1 values that are NaN" in found["reward head"]["value"]


def with_template(folder: Path, tokenizer: Path, template: str, **settings: Any) -> Path:
    """A model folder whose tokenizer has another template."""
    made = hf(folder, tokenizer)
    (made / "chat_template.jinja").unlink(missing_ok=True)
    file = made / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template} | settings))
    return made


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "settings", "name", "status", "words"),
    [
        (TURNS + "<think>\n\n</think>", {}, "think block", "well", "an empty one"),
        (TURNS + "<think>so</think>", {}, "think block", "well", "one with text"),
        ("{{ strftime_now('%d') }}" + TURNS, {}, "chat template", "note", "reads the clock"),
        (TURNS, {"bos_token": "<|im_start|>"}, "beginning of text", "well", "once"),
        ("<|im_start|>" + TURNS, {"bos_token": "<|im_start|>"}, "beginning of text", "ill", "2 times"),
        (TURNS, {"bos_token": "<|endoftext|>"}, "beginning of text", "well", "never"),
        (TURNS + "<|endoftext|>", {}, "pad token", "note", "which the template itself writes"),
    ],
)
def test_templates(
    tmp_path: Path,
    tokenizer: Path,
    capsys: pytest.CaptureFixture[str],
    template: str,
    settings: dict[str, Any],
    name: str,
    status: str,
    words: str,
) -> None:
    found = findings(with_template(tmp_path / "hf", tokenizer, template, **settings), capsys)[1]
    assert (found[name]["status"], words in str(found[name]["value"])) == (status, True), found


def test_findings_are_written_as_a_file(tmp_path: Path, tokenizer: Path) -> None:
    main([str(hf(tmp_path / "hf", tokenizer)), "--json", str(tmp_path / "new" / "out.json")])
    assert json.loads((tmp_path / "new" / "out.json").read_text())["well"] is True


def test_code_beside_a_tokenizer_is_not_run(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\n"))
    evil = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}}
    folder = with_template(tmp_path / "hf", tokenizer, TURNS, **evil)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\nclass EvilTokenizer: pass\n")
    findings(folder, capsys)
    assert not (tmp_path / "owned").exists()


SCALED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def test_what_is_not_implemented_is_not_laid_to_transformers(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hf(tmp_path / "hf", tokenizer, rope_scaling=YARN, rope_parameters="gone")
    found = findings(folder, capsys)[1]["RoPE"]
    ours, *theirs = found["value"].split("; transformers ")
    assert ours.startswith("skyrm_jax: refused: ") and "'yarn'" in ours
    read = "theta 500,000, yarn (factor 4.0, original_max_position_embeddings 32768)"
    assert theirs == [f"4: {read}", f"5: {read}"]
    assert "not supported here" in found["remedy"]


def test_a_contradiction_must_be_corrected_by_hand() -> None:
    """We refuse it, so that no export of ours can mend it."""
    found = rope({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}})
    assert found.status == "ill" and "correct rope_theta" in found.remedy and "to-hf" not in found.remedy


@pytest.mark.parametrize("key", ["rope_theta", "rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("value", ["x", 5, -1.0, True, [], ["x"], {"rope_type": 5}, {"rope_type": ["x"]}, {"type": {}},
                                   {"rope_theta": "x"}, SCALED | {"factor": "x"}, SCALED | {"factor": None},
                                   {"rope_type": "llama3"}, {"rope_type": "x", "y": []}])  # fmt: skip
def test_rope_of_any_shape_is_a_finding(key: str, value: Any) -> None:
    for others in ({}, {"rope_theta": 5e5, "rope_scaling": SCALED, "rope_parameters": {**SCALED, "rope_theta": 5e5}}):
        assert rope({**others, key: value}).name == "RoPE"


CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "theta": {"rope_theta": 5e5},
    "null": {"rope_theta": None},
    "null beside new": {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "null beside old": {"rope_theta": None, "rope_scaling": SCALED},
    "null inside old": {"rope_theta": 5e5, "rope_scaling": {**SCALED, "rope_theta": None}},
    "old": {"rope_theta": 5e5, "rope_scaling": SCALED},
    "old with theta inside": {"rope_theta": 1e6, "rope_scaling": {**SCALED, "rope_theta": 5e5}},
    "old, two kinds": {"rope_theta": 5e5, "rope_scaling": {**SCALED, "type": "default"}},
    "old, empty": {"rope_theta": 5e5, "rope_scaling": {}},
    "new": {"rope_parameters": {**SCALED, "rope_theta": 5e5}},
    "new without theta": {"rope_parameters": SCALED},
    "new without kind": {"rope_parameters": {"rope_theta": 1e6}},
    "both": {"rope_theta": 5e5, "rope_scaling": SCALED, "rope_parameters": {**SCALED, "rope_theta": 5e5}},
    "both, differing": {"rope_theta": 1e4, "rope_scaling": SCALED, "rope_parameters": {**SCALED, "rope_theta": 5e5}},
    "settings without kind": {"rope_theta": 1e6, "rope_scaling": {"factor": 8.0}},
    "lacking": {"rope_theta": 1e6, "rope_scaling": {"rope_type": "llama3"}},
    "theta in words": {"rope_theta": "x"},
    "old in words": {"rope_scaling": "x"},
    "linear": {"rope_theta": 5e5, "rope_scaling": LINEAR},
    "linear, new": {"rope_parameters": {**LINEAR, "rope_theta": 5e5}},
    "yarn": {"rope_theta": 5e5, "rope_scaling": YARN},
}
HEAD_DIM = 16
READ = """
import json, sys
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 131072}
sizes["head_dim"] = int(sys.argv[2])

def frequencies(kind, embedding, config):
    try:
        return embedding(kind.from_dict({**sizes, **json.loads(json.dumps(config))})).inv_freq.tolist()
    except Exception:
        return None

print(json.dumps({"version": transformers.__version__, "frequencies": {
    name: [frequencies(transformers.LlamaConfig, LlamaRotaryEmbedding, config),
           frequencies(transformers.Qwen3Config, Qwen3RotaryEmbedding, config)]
    for name, config in json.loads(sys.argv[1]).items()}}))
"""


@pytest.mark.parametrize("major", [pytest.param("4", marks=pytest.mark.full), "5"])
def test_transformers_reads_rope_as_the_doctor_says(major: str) -> None:
    """Every config is turned into frequencies by the real thing, which must be those of the RoPE that we print."""
    pytest.importorskip("torch")
    python = os.environ.get("SKYRM_TRANSFORMERS4") if major == "4" else sys.executable
    if not python:
        pytest.skip("SKYRM_TRANSFORMERS4 names no interpreter with transformers 4.57; tools/run_tests.sh --full does")
    done = subprocess.run([python, "-c", READ, json.dumps(CONFIGS), str(HEAD_DIM)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["version"].startswith(f"{major}.")
    for name, config in CONFIGS.items():
        reading = by_reader(config)[f"transformers {major}"]
        for real in answer["frequencies"][name]:
            if isinstance(reading, str):
                assert real is None, f"{name}: {reading}"
                continue
            if isinstance(reading, Rope):
                expected = inv_freq(reading, HEAD_DIM)
            elif reading.kind == "linear":
                expected = inv_freq(Rope("default", reading.theta), HEAD_DIM) / reading.settings["factor"]
            else:
                assert reading.kind == "yarn"  # its fastest pair is unscaled, its slowest scaled
                plain = inv_freq(Rope("default", reading.theta), HEAD_DIM)
                expected, real = [plain[0], plain[-1] / reading.settings["factor"]], [real[0], real[-1]]
            np.testing.assert_allclose(real, expected, rtol=1e-6, err_msg=name)


def test_readers_differ_as_documented() -> None:
    """The same without transformers: the readings that users meet."""
    new = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    assert list(by_reader(new).values()) == [Rope("default", 1e6), Rope("default", 1e4), Rope("default", 1e6)]
    assert set(by_reader({"rope_theta": 1e6, **new}).values()) == {Rope("default", 1e6)}
    assert by_reader({"rope_theta": None})["transformers 4"] == "fails on rope_theta None"


def test_bfloat16_steps() -> None:
    assert bfloat16_step(1.0) == 2.0**-7 and bfloat16_step(-3.9) == 2.0**-6 and bfloat16_step(0) > 0
    pair = Pair("bfloat16", "p", "r", 23.0, 23.125)
    assert math.isclose(pair.steps, 1.0) and pair.is_well
    assert Pair("bfloat16", "p", "r", 23.0, 23.25).is_well and not Pair("bfloat16", "p", "r", 23.0, 23.375).is_well
    assert not Pair("float32", "p", "r", 1.0, 1.01).is_well
    assert not Pair("bfloat16", "p", "r", math.nan, 1.0).is_well and math.isnan(bfloat16_step(math.inf))


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> dict[str, list[float]]:
    """Of each response of SAMPLES: by this package in float32, and by transformers in both dtypes."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification

    folder = hf(tmp_path_factory.mktemp("rewards") / "hf", tokenizer)
    conversations = [comparison.conversation(k) for comparison in SAMPLES for k in range(len(comparison.responses))]
    encoded = Chat.load(folder, 0).encode(conversations)
    found = {"ours": np.concatenate(Scorer.load(str(folder), dtype="float32").score(SAMPLES)).tolist()}
    for dtype in get_args(Dtype):
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        with torch.no_grad():
            found[dtype] = [float(model(torch.tensor([ids])).logits[0, 0]) for ids in encoded]
    return found


@pytest.mark.parametrize("form", ["hf", "ours"])
def test_transformers_gives_the_same_rewards(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str], rewards: dict[str, list[float]], form: str
) -> None:
    write_checkpoint(tmp_path / "ours", weights(), tokenizer, {})
    hf(tmp_path / "hf", tokenizer)
    status, record = report(tmp_path / form, capsys, "--against", "hf")
    assert status == 0, record
    found = {finding["name"]: finding["status"] for finding in record["findings"]}
    assert found["transformers, float32"] == found["transformers, bfloat16"] == "well"
    responses = [c.conversation(k)[-1].content for c in SAMPLES for k in range(len(c.responses))]
    assert [(pair["dtype"], pair["response"], pair["theirs"]) for pair in record["rewards"]] == [
        (dtype, *both) for dtype in get_args(Dtype) for both in zip(responses, rewards[dtype], strict=True)
    ]
    ours = [pair["ours"] for pair in record["rewards"]]
    assert ours[: len(responses)] == rewards["ours"] and len(set(ours)) == len(ours)
    for pair in record["rewards"]:
        step = 2.0 ** (math.frexp(max(abs(pair["ours"]), abs(pair["theirs"])))[1] - 8)
        assert pair["bf16_steps"] == abs(pair["ours"] - pair["theirs"]) / step and pair["well"] is True


def test_rewards_are_shown_side_by_side(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    pairs = [Pair("float32", "p", "[b]", 1.5, 1.50025), Pair("bfloat16", "p", "Yes.", -23.0, -23.625)]
    monkeypatch.setattr(against, "compare", lambda patient: pairs)
    with pytest.raises(SystemExit):
        main([str(hf(tmp_path / "hf", tokenizer)), "--against", "hf"])
    out = capsys.readouterr().out
    table = [line.split() for line in out[out.index("Rewards") :].splitlines()]
    assert table[2] == ["dtype", "response", "skyrm_jax", "transformers", "difference", "bf16", "steps"]
    assert table[4] == ["float32", "[b]", "1.50000", "1.50025", "0.00025", "0.0"]
    assert table[5] == ["bfloat16", "Yes.", "-23.00000", "-23.62500", "0.62", "5.0"]
    assert "1 of" in out and "transformers, bfloat16" in out


def test_a_config_that_transformers_misreads_shows_in_the_rewards(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second runtime reads another RoPE than this package: its rewards must give it away."""
    pytest.importorskip("torch")
    patient = admit(str(hf(tmp_path / "hf", tokenizer)))
    other = hf(tmp_path / "other", tokenizer, rope_theta=10.0, rope_scaling=None, rope_parameters=None)
    object.__setattr__(patient, "folder", other)
    pairs = against.compare(patient, ["float32"])
    assert not all(pair.is_well for pair in pairs)
    assert against.findings(pairs)[0].status == "ill"


def test_a_stores_damaged_files_are_named(
    tmp_path: Path, byte_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"prompt": f"q{i}", "chosen": "a", "rejected": "b"}) + "\n" for i in range(9))
    )
    options = PrepareOptions(["a.jsonl"], str(tmp_path / "store"), str(byte_tokenizer), str(tmp_path), held_out=2)
    store = prepare(options, Console(file=io.StringIO()))
    status, found = findings(tmp_path / "store", capsys)
    assert status == 0 and found["comparisons"]["value"] == "9, of them 2 held out"
    shard = tmp_path / "store" / store.meta["shards"][0]["file"]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    status, found = findings(tmp_path / "store", capsys)
    assert status == 1 and f"{shard}: is damaged" in found["file"]["value"]
    (tmp_path / "store" / "store.json").write_text("{}")
    assert findings(tmp_path / "store", capsys)[0] == 1
