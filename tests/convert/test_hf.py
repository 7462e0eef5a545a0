"""Hugging Face folders in and out: nothing lost, nothing silently wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import (
    LLAMA3,
    LLAMA_SMALL,
    QWEN3_SMALL,
    assert_equal_rewards,
    hf_model,
    hf_rewards,
    our_rewards,
    safetensors_in,
)

from skyrm_jax.checkpoint import load_model
from skyrm_jax.convert.cli import main
from skyrm_jax.convert.hf import read_hf, resolve
from skyrm_jax.convert.hf_export import write_hf
from skyrm_jax.convert.weights import MemoryWeights
from skyrm_jax.errors import UserError

torch = pytest.importorskip("torch")

BASES = {"qwen3": QWEN3_SMALL, "llama": {**LLAMA_SMALL, "rope_scaling": LLAMA3, "rope_theta": 5e5}}
TEXTS = [np.random.default_rng(0).integers(8, 96, size).tolist() for size in (3, 60)] + [[9, 10, 7, 11, 7]]


def save(folder: Path, config: dict[str, Any], dtype: str = "float32") -> Any:
    model = hf_model(config).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size="30KB")
    return model


def add_tokenizer(folder: Path) -> None:
    """A tokenizer of 96 tokens, the first eight special, without a pad token of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["<unk>", "<s>", "</s>", "<|pad|>", "<|reserved_0|>", "<|reserved_1|>", "<a>", "<b>"]
    words = [f"w{i}" for i in range(88)]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names + words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(names)
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_import_and_export_give_back_identical_tensors(tmp_path, base, dtype):
    save(tmp_path / "hf", BASES[base], dtype)
    add_tokenizer(tmp_path / "hf")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 2
    more = "additional_chat_templates/tool_use.jinja"
    (tmp_path / "hf" / more).parent.mkdir()
    (tmp_path / "hf" / more).write_text("{{ messages[0].content }}")
    main(["from-hf", str(tmp_path / "hf"), str(tmp_path / "ours")])
    main(["to-hf", str(tmp_path / "ours"), str(tmp_path / "back"), "--max-shard-gib", "0.00003"])
    before, after = safetensors_in(tmp_path / "hf"), safetensors_in(tmp_path / "back")
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert (value.dtype, value.shape, value.tobytes()) == (
            after[name].dtype,
            after[name].shape,
            after[name].tobytes(),
        )
    for name in ("tokenizer.json", "tokenizer_config.json", more):
        assert (tmp_path / "hf" / name).read_bytes() == (tmp_path / "back" / name).read_bytes()
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in before.values())
    assert set(index["weight_map"].values()) == {file.name for file in (tmp_path / "back").glob("*.safetensors")}
    assert json.loads((tmp_path / "back" / "config.json").read_text())["dtype"] == dtype
    assert len({file.stat().st_mode for file in (tmp_path / "back").iterdir() if file.is_file()}) == 1


@pytest.mark.parametrize("base", BASES)
def test_transformers_loads_the_export_and_gives_the_same_rewards(tmp_path, base):
    from transformers import AutoModelForSequenceClassification

    original = save(tmp_path / "hf", BASES[base])
    architecture, params, _ = read_hf(tmp_path / "hf")
    write_hf(tmp_path / "out", MemoryWeights.of(architecture, params), None)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert type(loaded) is type(original) and loaded.dtype == torch.float32
    assert loaded.config.num_labels == 1 and loaded.config.pad_token_id == 7
    assert loaded.config.problem_type == "regression"
    theirs = hf_rewards(loaded.eval(), TEXTS)
    np.testing.assert_allclose(theirs, hf_rewards(original, TEXTS), rtol=1e-6, atol=1e-6)
    assert_equal_rewards(our_rewards(architecture, params, TEXTS), theirs)


def test_a_pipeline_on_the_export_gives_raw_rewards(tmp_path):
    from transformers import pipeline

    original = save(tmp_path / "hf", BASES["qwen3"])
    add_tokenizer(tmp_path / "hf")
    architecture, params, tokenizer = read_hf(tmp_path / "hf")
    write_hf(tmp_path / "out", MemoryWeights.of(architecture, params), tokenizer)
    scored = pipeline("text-classification", model=str(tmp_path / "out"))("w1 w2 w3 w4")[0]
    assert scored["label"] == "LABEL_0"
    assert scored["score"] == pytest.approx(float(hf_rewards(original, [[9, 10, 11, 12]])[0]), abs=1e-5)


def test_the_old_dialect_alone_describes_the_same_model(tmp_path):
    """What transformers 4 sees of the export: it does not know rope_parameters."""
    original = save(tmp_path / "hf", BASES["llama"])
    architecture, params, _ = read_hf(tmp_path / "hf")
    write_hf(tmp_path / "out", MemoryWeights.of(architecture, params), None)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    del config["rope_parameters"]
    texts = [np.random.default_rng(1).integers(8, 96, 400).tolist()]
    assert np.array_equal(hf_rewards(hf_model(config, original.state_dict()), texts), hf_rewards(original, texts))


def test_a_causal_lm_gets_a_zero_head_and_loses_its_lm_head(tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {key: value for key, value in BASES["llama"].items() if key != "num_labels"}
    for tied in (False, True):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config, tie_word_embeddings=tied))
        folder = tmp_path / f"tied{tied}"
        model.to(torch.bfloat16).save_pretrained(folder)
        architecture, params, _ = read_hf(folder)
        assert params["score"].shape == (48, 1) and not params["score"].any()
        assert params["score"].dtype == np.float32 and params["embed"].dtype.name == "bfloat16"
        assert architecture.tie_word_embeddings is tied and "lm_head" not in params


def test_dtype_is_the_users(tmp_path):
    save(tmp_path / "hf", BASES["qwen3"])
    architecture, params, _ = read_hf(tmp_path / "hf", dtype="bfloat16")
    assert params["layers"]["q"].dtype.name == "bfloat16"
    write_hf(tmp_path / "out", MemoryWeights.of(architecture, params), None, dtype="float32")
    for name, value in safetensors_in(tmp_path / "out").items():
        original = safetensors_in(tmp_path / "hf")[name]
        assert value.dtype == np.float32
        assert np.array_equal(value, original.astype(params["embed"].dtype).astype(np.float32))


def test_a_checkpoint_remembers_where_it_came_from(tmp_path, capsys):
    save(tmp_path / "hf", BASES["qwen3"])
    add_tokenizer(tmp_path / "hf")
    main(["from-hf", str(tmp_path / "hf"), str(tmp_path / "ours"), "--pad-token", "<|reserved_1|>"])
    assert "pad token 5" in capsys.readouterr().out
    loaded = load_model(str(tmp_path / "ours"))
    assert loaded.architecture.pad_token_id == 5
    assert loaded.meta["base"] == str(tmp_path / "hf") and loaded.meta["head"] == "imported"
    main(["to-hf", str(tmp_path / "ours"), str(tmp_path / "out")])
    card = (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path / "hf") in card and loaded.meta["template_hash"] in card and "right-most token" in card


PAD_CASES = [
    ({"pad_token_id": 6}, {}, None, 6),
    ({"pad_token_id": 6}, {"pad_token": "<a>"}, "<b>", 7),
    ({"pad_token_id": None}, {"pad_token": {"content": "<|reserved_0|>", "special": True}}, None, 4),
    ({"pad_token_id": None}, {}, None, 3),  # <|pad|>, well known
]


@pytest.mark.parametrize("config, tokenizer, wanted, expected", PAD_CASES)
def test_the_pad_token_is_found_in_order(tmp_path, config, tokenizer, wanted, expected):
    save(tmp_path, {**BASES["qwen3"], **config})
    add_tokenizer(tmp_path)
    edit(tmp_path / "tokenizer_config.json", tokenizer)
    assert read_hf(tmp_path, pad_token=wanted)[0].pad_token_id == expected


def test_without_a_pad_token_the_user_must_name_one(shared, tmp_path):
    save(tmp_path, {**BASES["llama"], "pad_token_id": None})
    with pytest.raises(UserError, match=r"pad_token_id.*tokenizer\.json"):
        read_hf(tmp_path)
    # Llama 3.1's tokenizer as released here has no pad token.
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(shared / "tokenizers" / "llama3_1" / name, tmp_path / name)
    with pytest.raises(UserError, match=r"--pad-token.*<\|reserved_special_token_0\|>"):
        read_hf(tmp_path)
    with pytest.raises(UserError, match="'nonesuch' is not one token"):
        read_hf(tmp_path, pad_token="nonesuch")


def edit(file: Path, changes: dict[str, Any]) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewrite(folder: Path, change: Any) -> None:
    """Applies `change` to the dict of tensors, and saves them as one file."""
    from safetensors.torch import load_file, save_file

    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


UP = "model.layers.1.mlp.up_proj.weight"
BROKEN = [
    ("missing", UP, lambda t: t.pop(UP)),
    ("missing", "score.weight", lambda t: t.pop("score.weight")),
    ("unknown", "model.layers.2.mlp.up_proj.weight", lambda t: t.update({UP.replace("1", "2"): t[UP].clone()})),
    ("unknown", "q_proj.bias", lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)})),
    ("shape", UP, lambda t: t.update({UP: t[UP].T.contiguous()})),
    ("dtype", UP, lambda t: t.update({UP: t[UP].to(torch.int8)})),
    ("--dtype", UP, lambda t: t.update({UP: t[UP].to(torch.bfloat16)})),
]


@pytest.mark.parametrize("said, named, change", BROKEN, ids=[f"{case[0]}-{case[1]}" for case in BROKEN])
def test_wrong_tensors_are_named(tmp_path, said, named, change):
    save(tmp_path, BASES["qwen3"])
    rewrite(tmp_path, change)
    with pytest.raises(UserError) as caught:
        read_hf(tmp_path)
    assert said in str(caught.value) and named in str(caught.value)


def test_an_architecture_that_is_not_ours_is_laid_to_its_file(tmp_path):
    save(tmp_path, BASES["qwen3"])
    edit(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(UserError) as caught:
        read_hf(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: model_type 'bert' is not implemented: use ")


def test_a_head_that_the_config_does_not_announce_is_an_error(tmp_path):
    save(tmp_path, BASES["qwen3"])
    edit(tmp_path / "config.json", {"architectures": ["Qwen3ForCausalLM"]})
    with pytest.raises(UserError, match=r"score\.weight.*architectures"):
        read_hf(tmp_path)


def test_damaged_folders_are_explained(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        read_hf(tmp_path)
    save(tmp_path, BASES["qwen3"])
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    whole = shard.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    for name, tensor in json.loads(whole[8:begin]).items():
        if name != "__metadata__":
            for size in (tensor["data_offsets"][0], tensor["data_offsets"][1] - 1):
                shard.write_bytes(whole[: begin + size])
                with pytest.raises(
                    UserError, match=f"{shard.name} is damaged or cut short: tensor {name} is the first"
                ):
                    read_hf(tmp_path)
    for size in (0, 7, begin - 1):
        shard.write_bytes(whole[:size])
        with pytest.raises(UserError, match=f"{shard.name} is damaged.*within its header"):
            read_hf(tmp_path)
    shard.write_bytes(whole[:8] + b"[" * (begin - 8) + whole[begin:])
    with pytest.raises(UserError, match=f"{shard.name} is damaged"):
        read_hf(tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name} is missing"):
        read_hf(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        read_hf(tmp_path)


def test_sources_that_are_neither_folder_nor_hub_id(tmp_path):
    assert resolve(str(tmp_path)) == tmp_path
    for source in (str(tmp_path / "nowhere" / "model"), "a/b/c", ""):
        with pytest.raises(UserError, match="neither"):
            resolve(source)
    with pytest.raises(UserError, match="--revision"):
        resolve(str(tmp_path), "main")
    for source, revision in (("owner/name@v1", "v2"), ("owner/name@", None)):
        with pytest.raises(UserError, match="give one revision"):
            resolve(source, revision)
    (tmp_path / "a@b").mkdir()
    assert resolve(str(tmp_path / "a@b")) == tmp_path / "a@b"


def test_hub_ids_are_fetched_without_code_and_pickles_only_where_nothing_else_is(tmp_path, monkeypatch):
    import huggingface_hub

    asked: list[dict[str, Any]] = []

    def fetch(repo: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert ignore_patterns == ["*.py"]
        asked.append({"repo": repo, "revision": revision, "patterns": allow_patterns})
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    (tmp_path / "model.safetensors").touch()
    assert resolve("owner/name", "v2") == tmp_path
    assert [(call["repo"], call["revision"]) for call in asked] == [("owner/name", "v2")]
    assert not any(pattern.endswith((".py", ".bin", "*")) and not pattern.startswith(("tokenizer", "chat_template"))
                   for pattern in asked[0]["patterns"])  # fmt: skip
    (tmp_path / "model.safetensors").unlink()
    resolve("owner/name")
    assert len(asked) == 3 and "pytorch_model*.bin" in asked[2]["patterns"]

    def fail(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"owner/name is not a folder.*no route"):
        resolve("owner/name")


def test_every_command_takes_the_revision_of_a_hub_id(tmp_path, monkeypatch):
    import huggingface_hub

    snapshot = tmp_path / "snapshots" / ("a" * 40)
    save(snapshot, BASES["qwen3"])
    add_tokenizer(snapshot)
    asked: list[tuple[str, str | None]] = []

    def fetch(repo: str, *, revision: str | None, **_: Any) -> str:
        asked.append((repo, revision))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    source = "owner/name@refs/pr/1"
    main(["from-hf", source, str(tmp_path / "in")])
    main(["to-hf", source, str(tmp_path / "out")])
    main(["average", source, source, "--out", str(tmp_path / "mean")])
    loaded = load_model(source)
    assert loaded.architecture.pad_token_id == 7
    assert asked == [("owner/name", "refs/pr/1")] * 5
    found = load_model(str(tmp_path / "in")).meta
    assert (found["base"], found["commit"]) == (source, "a" * 40)
    card = (tmp_path / "out" / "README.md").read_text()
    assert source in card and "a" * 40 in card and found["template_hash"] in card


def test_writing_never_leaves_half_a_folder(tmp_path, monkeypatch):
    save(tmp_path / "hf", BASES["qwen3"])
    architecture, params, _ = read_hf(tmp_path / "hf")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        write_hf(tmp_path / "taken", MemoryWeights.of(architecture, params), None)

    with pytest.raises(UserError, match=r"layers\.q has shape"):
        MemoryWeights.of(architecture, {**params, "layers": {**params["layers"], "q": params["embed"]}})


LIMITED = """
import resource, signal, sys
from skyrm_jax.convert.cli import main
from skyrm_jax.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    main(sys.argv[1:])
except UserError as error:
    print("UserError:", error)
"""


def test_when_the_disk_takes_no_more_nothing_is_left(tmp_path):
    """A limit on the size of files fails writes as a full disk does."""
    save(tmp_path / "hf", BASES["qwen3"])
    add_tokenizer(tmp_path / "hf")
    (tmp_path / "hf" / "tokenizer_config.json").write_text("{}")
    main(["from-hf", str(tmp_path / "hf"), str(tmp_path / "ours")])
    before = sorted(path.name for path in tmp_path.iterdir())
    for command in (["from-hf", "hf", "out"], ["to-hf", "ours", "out"]):
        done = subprocess.run([sys.executable, "-c", LIMITED, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1].startswith(f"UserError: {tmp_path}/out cannot be written"), (
            done.stdout + done.stderr
        )
        assert sorted(path.name for path in tmp_path.iterdir()) == before
