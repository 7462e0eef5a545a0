"""Architecture: the published models' sizes, and config.json read strictly in both dialects."""

import json
from typing import Any

import pytest

from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture, Rope

# From the models' published config.json files.
QWEN3_0_6B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
LLAMA_3_1_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.42.3", "use_cache": True, "vocab_size": 128256,
}  # fmt: skip
SMOLLM2_135M: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
    "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
    "transformers_version": "4.42.3", "use_cache": True, "vocab_size": 49152,
}  # fmt: skip
SKYWORK_QWEN3: dict[str, Any] = {
    **QWEN3_0_6B, "architectures": ["Qwen3ForSequenceClassification"], "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0}, "pad_token_id": 151654, "use_cache": False,
}  # fmt: skip
LLAMA32_ROPE = {**LLAMA_3_1_8B["rope_scaling"], "factor": 32.0}

# name, config, parameters and tensors: the design's table
PUBLISHED = [
    ("Q3-0.6B", QWEN3_0_6B, {}, 596_050_944, 311),
    ("Q3-1.7B", QWEN3_0_6B, {"hidden_size": 2048, "intermediate_size": 6144}, 1_720_577_024, 311),
    ("Q3-4B", QWEN3_0_6B, {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
                           "num_attention_heads": 32}, 4_022_470_656, 399),
    ("Q3-8B", QWEN3_0_6B, {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
                           "num_attention_heads": 32, "tie_word_embeddings": False}, 7_568_409_600, 399),
    ("L3.2-1B", LLAMA_3_1_8B, {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                               "head_dim": 64, "rope_scaling": LLAMA32_ROPE}, 1_235_816_448, 147),
    ("L3.2-3B", LLAMA_3_1_8B, {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
                               "num_attention_heads": 24, "head_dim": 128, "rope_scaling": LLAMA32_ROPE},
     3_212_752_896, 255),
    ("L3.1-8B", LLAMA_3_1_8B, {}, 7_504_928_768, 291),
]  # fmt: skip


@pytest.mark.parametrize("name, base, changes, parameters, tensors", PUBLISHED)
def test_published_models_have_the_published_sizes(name, base, changes, parameters, tensors):
    architecture = Architecture.from_hf({**base, **changes})
    assert architecture.parameter_count() == parameters
    assert architecture.tensor_count() == tensors


def test_published_facts_are_read():
    qwen, llama = Architecture.from_hf(SKYWORK_QWEN3), Architecture.from_hf(LLAMA_3_1_8B)
    assert (qwen.qk_norm, qwen.rms_eps, qwen.rope, qwen.pad_token_id) == (
        True,
        1e-6,
        Rope("default", 1e6),
        151654,
    )
    assert (llama.qk_norm, llama.rms_eps, llama.head_dim, llama.pad_token_id) == (False, 1e-5, 128, None)
    assert llama.rope == Rope("llama3", 5e5, 8.0, 1.0, 4.0, 8192)
    assert llama.eos_token_id == (128001, 128008, 128009)
    smollm = Architecture.from_hf(SMOLLM2_135M)
    assert (smollm.head_dim, smollm.rope.theta, smollm.initializer_range) == (64, 1e5, 0.041666666666666664)


@pytest.mark.parametrize("config", [QWEN3_0_6B, LLAMA_3_1_8B, SMOLLM2_135M, SKYWORK_QWEN3])
def test_what_transformers_writes_is_read_the_same(config):
    pytest.importorskip("torch")
    from transformers import AutoConfig

    theirs = AutoConfig.for_model(**config)
    for written in (
        theirs.to_dict(),
        theirs.to_diff_dict(),
        json.loads(theirs.to_json_string(use_diff=False)),
    ):
        assert Architecture.from_hf({**written, "architectures": config["architectures"]}) == Architecture.from_hf(
            config
        )


def test_both_rope_dialects_and_both_spellings_mean_the_same():
    old = Architecture.from_hf(LLAMA_3_1_8B)
    without = {key: value for key, value in LLAMA_3_1_8B.items() if not key.startswith("rope_")}
    scaling = dict(LLAMA_3_1_8B["rope_scaling"])
    new = {**without, "rope_parameters": {**scaling, "rope_theta": 500000.0}}
    both = {**LLAMA_3_1_8B, "rope_parameters": {**scaling, "rope_theta": 500000.0}}
    scaling["type"] = scaling.pop("rope_type")
    for config in (new, both, {**LLAMA_3_1_8B, "rope_scaling": scaling}):
        assert Architecture.from_hf(config) == old
    assert Architecture.from_hf(without).rope == Rope("default", 10_000.0)


REJECTED = [
    ("sliding_window", {"use_sliding_window": True, "sliding_window": 4096}),
    ("sliding_window", {"use_sliding_window": None, "sliding_window": 4096}),
    ("attention_bias", {"attention_bias": True}),
    ("mlp_bias", {"mlp_bias": True}),
    ("hidden_act", {"hidden_act": "gelu"}),
    ("pretraining_tp", {"pretraining_tp": 2}),
    ("attention_dropout", {"attention_dropout": 0.1}),
    ("layer_types", {"layer_types": ["full_attention"] * 27 + ["sliding_attention"]}),
    ("layer_types", {"layer_types": ["full_attention"] * 3}),
    ("rope_type 'yarn'", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
    ("rope_type 'linear'", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    ("low_freq_factor", {"rope_scaling": {"rope_type": "llama3", "factor": 4.0, "high_freq_factor": 4.0,
                                          "original_max_position_embeddings": 8192}}),
    ("beta_fast", {"rope_scaling": {**LLAMA32_ROPE, "beta_fast": 32}}),
    ("factor", {"rope_scaling": {"rope_type": "default", "factor": 2.0}}),
    ("disagree", {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}),
    ("disagree", {"rope_scaling": LLAMA32_ROPE, "rope_parameters": {"rope_type": "default",
     "rope_theta": 1e6}}),
    ("rope_interleaved", {"rope_interleaved": True}),
    ("partial_rotary_factor", {"partial_rotary_factor": 0.5}),
    ("quantization_config", {"quantization_config": {"quant_method": "fp8"}}),
    ("auto_map", {"auto_map": {"AutoModel": "modeling.Model"}}),
    ("logit_scale", {"logit_scale": 2.0}),
    ("residual_multiplier", {"residual_multiplier": 0.22, "embedding_multiplier": 12}),
    ("model_type", {"model_type": "qwen2"}),
    ("architectures", {"architectures": ["Qwen3ForTokenClassification"]}),
    ("architectures", {"architectures": ["LlamaForCausalLM"]}),
    ("id2label", {"architectures": ["Qwen3ForSequenceClassification"]}),
    ("id2label", {"architectures": ["Qwen3ForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}),
    ("num_labels", {"architectures": ["Qwen3ForSequenceClassification"], "id2label": {"0": "a"},
     "num_labels": 2}),
    ("num_hidden_layers", {"num_hidden_layers": "28"}),
    ("vocab_size", {"vocab_size": None}),
    ("num_key_value_heads", {"num_key_value_heads": None}),
    ("kv_heads", {"num_key_value_heads": 3}),
    ("head_dim", {"head_dim": 127}),
    ("rms_norm_eps", {"rms_norm_eps": 0.0}),
    ("rms_norm_eps", {"rms_norm_eps": None}),
    ("rms_norm_eps", {"rms_norm_eps": "abc"}),
    ("rms_norm_eps", {"rms_norm_eps": float("nan")}),
    ("rope_theta", {"rope_theta": "abc"}),
    ("rope_theta", {"rope_theta": True}),
    ("rope_theta", {"rope_parameters": {"rope_theta": [1e6]}}),
    ("rope_type", {"rope_scaling": {"rope_type": ["a"]}}),
    ("rope_type", {"rope_scaling": {"rope_type": {}, "type": "default"}}),
    ("rope_scaling must be a mapping", {"rope_scaling": "x"}),
    ("rope_scaling must be a mapping", {"rope_scaling": ""}),
    ("rope_parameters must be a mapping", {"rope_parameters": []}),
    ("factor", {"rope_scaling": {**LLAMA32_ROPE, "factor": "8"}}),
    ("initializer_range", {"initializer_range": None}),
    ("layer_types must be a list", {"layer_types": 3}),
    ("layer_types must be a list", {"layer_types": [["full_attention"]] * 28}),
    ("architectures must be a list", {"architectures": 5}),
    ("architectures must be a list", {"architectures": "Qwen3ForCausalLM"}),
    ("architectures must be a list", {"architectures": [5]}),
    ("model_type", {"model_type": ["qwen3"]}),
    ("model_type", {"model_type": None}),
    ("num_key_value_heads", {"num_key_value_heads": 0}),
    ("num_attention_heads", {"num_attention_heads": 0}),
    ("head_dim", {"head_dim": "128"}),
    ("max_position_embeddings", {"max_position_embeddings": None}),
    ("tie_word_embeddings", {"tie_word_embeddings": "false"}),
    ("id2label", {"architectures": ["Qwen3ForSequenceClassification"], "id2label": 1}),
    ("eos_token_id", {"eos_token_id": ["a"]}),
    ("bos_token_id", {"bos_token_id": {}}),
    ("pad_token_id", {"pad_token_id": 151936}),
    ("pad_token_id", {"pad_token_id": -1}),
]  # fmt: skip


@pytest.mark.parametrize("named, changes", REJECTED)
def test_what_is_not_implemented_is_rejected_by_name(named, changes):
    with pytest.raises(UserError, match=named):
        Architecture.from_hf({**QWEN3_0_6B, **changes})


def test_errors_say_where_they_are_and_what_would_do():
    words = r"^model/config\.json: model_type 'bert' is not implemented: use a model of type llama or qwen3$"
    with pytest.raises(UserError, match=words):
        Architecture.from_hf({"model_type": "bert"}, "model/config.json")
    with pytest.raises(UserError, match=r"^here: heads \(16\) must be a multiple of kv_heads"):
        Architecture.from_hf({**QWEN3_0_6B, "num_key_value_heads": 3}, "here")


def test_llama_refuses_a_sliding_window_that_nothing_switches_off():
    with pytest.raises(UserError, match="sliding_window"):
        Architecture.from_hf({**LLAMA_3_1_8B, "sliding_window": 4096})


def test_zero_heads_of_llama_are_neither_divided_by_nor_taken_for_the_default():
    for key in ("num_attention_heads", "num_key_value_heads"):
        with pytest.raises(UserError, match=key):
            Architecture.from_hf({**LLAMA_3_1_8B, key: 0})


@pytest.mark.parametrize("config", [SKYWORK_QWEN3, {**LLAMA_3_1_8B, "pad_token_id": 128004}, SMOLLM2_135M])
def test_export_reads_back_as_itself_and_carries_both_dialects(config):
    architecture = Architecture.from_hf(config)
    exported = json.loads(json.dumps(architecture.to_hf("bfloat16")))
    assert Architecture.from_hf(exported) == architecture
    old = {key: value for key, value in exported.items() if key != "rope_parameters"}
    new = {key: value for key, value in exported.items() if key not in ("rope_theta", "rope_scaling")}
    assert Architecture.from_hf(old).rope == Architecture.from_hf(new).rope == architecture.rope
    assert exported["id2label"] == {"0": "LABEL_0"} and exported["problem_type"] == "regression"
    assert exported["pad_token_id"] == config["pad_token_id"]
    assert exported["architectures"][0].endswith("ForSequenceClassification")
    assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture


def test_export_without_pad_token_is_refused():
    with pytest.raises(UserError, match="pad_token_id"):
        Architecture.from_hf(LLAMA_3_1_8B).to_hf("float32")


def test_from_dict_names_what_it_does_not_know():
    record = Architecture.from_hf(QWEN3_0_6B).to_dict()
    with pytest.raises(UserError, match="attention_sinks"):
        Architecture.from_dict({**record, "attention_sinks": 4})
    with pytest.raises(UserError, match="damaged"):
        Architecture.from_dict({key: value for key, value in record.items() if key != "rope"})
