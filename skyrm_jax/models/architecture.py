"""What a decoder is: one field per fact, read from and written to Hugging Face's `config.json`.

Reading is strict. A key is read, or known to be inert, or accepted only at the value this package implements;
any other key raises, because a key nobody reads is how a model ends up silently wrong.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from skyrm_jax.errors import UserError

Kind = Literal["default", "llama3"]
ModelType = Literal["qwen3", "llama"]

COMPUTED = (
    "model_type", "vocab_size", "hidden", "mlp", "layers", "heads", "kv_heads", "head_dim", "qk_norm", "rms_eps", "rope",
)  # fmt: skip
"""Fields of an Architecture that decide what its weights compute, and their shapes."""

HF_NAMES: dict[str, str] = {"qwen3": "Qwen3", "llama": "Llama"}


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding. The four fields after `theta` belong to `llama3` scaling only."""

    kind: Kind = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192

    def __post_init__(self) -> None:
        if self.kind not in ("default", "llama3"):
            raise UserError(
                f"rope_type {self.kind!r} is not implemented: this package implements 'default' and 'llama3'"
            )
        for name in ("theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_positions"):
            _positive(f"rope {name}", getattr(self, name))
        if self.high_freq_factor <= self.low_freq_factor:
            raise UserError(
                f"rope high_freq_factor ({self.high_freq_factor}) must be greater than low_freq_factor "
                f"({self.low_freq_factor})"
            )


@dataclass(frozen=True)
class Architecture:
    """A Qwen3 or Llama decoder with a scalar reward head. Hashable, so it can be a static argument of jit.

    `head_dim` need not be `hidden / heads`. `pad_token_id` is a fact of the model, not of the tokenizer: the
    reward is read at the right-most token whose id is not it. Raises `UserError` if the facts disagree.
    """

    model_type: ModelType
    vocab_size: int
    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    qk_norm: bool
    rms_eps: float
    rope: Rope
    max_positions: int
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True  # a fact of the causal LM it came from; a reward model has no lm_head

    def __post_init__(self) -> None:
        if self.model_type not in HF_NAMES:
            raise UserError(f"model_type {self.model_type!r} is not implemented: use one of {sorted(HF_NAMES)}")
        for name in (
            "vocab_size",
            "hidden",
            "mlp",
            "layers",
            "heads",
            "kv_heads",
            "head_dim",
            "max_positions",
        ):
            value = getattr(self, name)
            if not _is_int(value) or value < 1:
                raise UserError(f"architecture field {name} must be a positive integer, got {value!r}")
        _positive("architecture field rms_eps", self.rms_eps)
        if self.heads % self.kv_heads:
            raise UserError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_dim % 2:
            raise UserError(f"head_dim ({self.head_dim}) must be even: RoPE rotates pairs of features")
        if self.qk_norm != (self.model_type == "qwen3"):
            raise UserError(
                f"qk_norm={self.qk_norm} does not go with model_type {self.model_type!r}: Qwen3 has it, Llama has not"
            )
        if self.model_type == "llama" and self.hidden % self.heads:
            raise UserError(
                f"hidden ({self.hidden}) must be a multiple of heads ({self.heads}) for model_type 'llama': "
                "transformers refuses to load anything else"
            )
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            value = getattr(self, name)
            ids = value if isinstance(value, tuple) else (value,)
            if (name != "eos_token_id" and isinstance(value, tuple)) or not all(i is None or _is_int(i) for i in ids):
                raise UserError(f"{name} must be a token id, got {value!r}")
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise UserError(
                f"pad_token_id {self.pad_token_id} is outside the vocabulary (0..{self.vocab_size - 1}): "
                "give the right one in config.json or with --pad-token"
            )

    def parameter_count(self) -> int:
        """Parameters of the reward model: no lm_head, with the score head."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        layer = self.layer_matrices() + norms
        return self.vocab_size * self.hidden + self.layers * layer + 2 * self.hidden

    def layer_matrices(self) -> int:
        """Parameters of the matrices of one layer: a token costs two operations for each."""
        return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads) + 3 * self.hidden * self.mlp

    def token_cost(self) -> int:
        """What a token costs in matrix products, in units of what a visible (query, key) pair costs in attention."""
        return 2 * self.layer_matrices() // (4 * self.heads * self.head_dim)

    def tensor_count(self) -> int:
        """Tensors in the Hugging Face file of this reward model."""
        return self.layers * (11 if self.qk_norm else 9) + 3

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for our own metadata; `from_dict` is the inverse."""
        record = dataclasses.asdict(self)
        if isinstance(self.eos_token_id, tuple):
            record["eos_token_id"] = list(self.eos_token_id)
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Architecture":
        fields = dict(record)
        unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise UserError(f"unknown architecture field(s) {', '.join(unknown)}: written by a newer skyrm_jax?")
        try:
            fields["rope"] = Rope(**fields["rope"])
            if isinstance(fields.get("eos_token_id"), list):
                fields["eos_token_id"] = tuple(fields["eos_token_id"])
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise UserError(f"the architecture record is damaged: {error}") from error

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], where: str = "config.json") -> "Architecture":
        """Read the parsed `config.json` of a Qwen3 or Llama causal LM or one-label sequence classifier.

        Defaults of absent keys are those of transformers' config classes. Raises `UserError` naming the key, and
        `where` it is: the file, or the key of ours that holds its contents.
        """
        try:
            return cls._from_hf(config)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    @classmethod
    def _from_hf(cls, config: Mapping[str, Any]) -> "Architecture":
        model_type = config.get("model_type")
        if model_type not in tuple(HF_NAMES):  # of a tuple, which asks no hash of what may be a list
            raise UserError(
                f"model_type {model_type!r} is not implemented: use a model of type {' or '.join(sorted(HF_NAMES))}"
            )
        _check_keys(config)
        _check_heads(config)
        _check_implemented(config)
        layers, hidden = _need_int(config, "num_hidden_layers"), _need_int(config, "hidden_size")
        heads = _need_int(config, "num_attention_heads")
        _check_layer_types(config, layers)
        is_llama = model_type == "llama"
        kv_heads = heads
        if config.get("num_key_value_heads") is not None:
            kv_heads = _need_int(config, "num_key_value_heads")
        elif not is_llama:
            raise UserError("num_key_value_heads is missing, and a Qwen3 model has no safe default for it")
        head_dim = hidden // heads if is_llama else 128
        if config.get("head_dim") is not None:
            head_dim = _need_int(config, "head_dim")
        eos = config.get("eos_token_id", 2 if is_llama else None)
        return cls(
            model_type=model_type,
            vocab_size=_need_int(config, "vocab_size"),
            hidden=hidden,
            mlp=_need_int(config, "intermediate_size"),
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            qk_norm=not is_llama,
            rms_eps=_need_float(config, "rms_norm_eps", 1e-6),
            rope=read_rope(config),
            max_positions=_need_int(config, "max_position_embeddings", 2048 if is_llama else 32768),
            pad_token_id=config.get("pad_token_id"),
            bos_token_id=config.get("bos_token_id", 1 if is_llama else None),
            eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
            initializer_range=_need_float(config, "initializer_range", 0.02),
            tie_word_embeddings=_need_bool(config, "tie_word_embeddings", False),
        )

    def to_hf(self, dtype: str) -> dict[str, Any]:
        """The `config.json` of this model as a transformers sequence classifier with one label.

        It carries both RoPE dialects: transformers 4 reads a `rope_parameters`-only config with theta 10,000
        and says nothing. `problem_type` is "regression", or pipelines and vLLM put a sigmoid over the reward.
        `dtype` is the weights' dtype by its torch name. Raises `UserError` if there is no pad token.
        """
        if self.pad_token_id is None:
            raise UserError("pad_token_id is not set, and the scored token depends on it: give it with --pad-token")
        theta = float(self.rope.theta)
        scaling: dict[str, Any] = {"rope_type": self.rope.kind}
        if self.rope.kind == "llama3":
            scaling |= {
                "factor": self.rope.factor,
                "low_freq_factor": self.rope.low_freq_factor,
                "high_freq_factor": self.rope.high_freq_factor,
                "original_max_position_embeddings": self.rope.original_max_positions,
            }
        config: dict[str, Any] = {
            "architectures": [f"{HF_NAMES[self.model_type]}ForSequenceClassification"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "rms_norm_eps": self.rms_eps,
            "max_position_embeddings": self.max_positions,
            "rope_theta": theta,
            "rope_scaling": None if self.rope.kind == "default" else scaling,
            "rope_parameters": {**scaling, "rope_theta": theta},
            "initializer_range": self.initializer_range,
            "tie_word_embeddings": self.tie_word_embeddings,
            "use_cache": True,
            "pad_token_id": self.pad_token_id,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": list(self.eos_token_id) if isinstance(self.eos_token_id, tuple) else self.eos_token_id,
            "id2label": {"0": "LABEL_0"},
            "label2id": {"LABEL_0": 0},
            "problem_type": "regression",
            "dtype": dtype,
            "torch_dtype": dtype,
        }
        if self.model_type == "qwen3":
            config |= {
                "use_sliding_window": False,
                "sliding_window": None,
                "max_window_layers": self.layers,
                "layer_types": ["full_attention"] * self.layers,
            }
        else:
            config |= {"mlp_bias": False, "pretraining_tp": 1}
        return config


def is_sequence_classifier(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` says that its weights carry a reward head (`score.weight`)."""
    names = _names(config, "architectures") or []
    return any(name.endswith("ForSequenceClassification") for name in names)


# Keys that `from_hf` and its helpers read.
# fmt: off
_READ = frozenset({
    "model_type", "architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings",
    "rope_theta", "rope_scaling", "rope_parameters", "pad_token_id", "bos_token_id", "eos_token_id",
    "initializer_range", "tie_word_embeddings", "layer_types", "id2label", "num_labels",
})
# fmt: on

# Keys accepted only at the values listed: another value means a computation that this package does not do.
_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "attention_dropout": (0, None),
    "use_sliding_window": (False,),
    "pretraining_tp": (1, None),
    "partial_rotary_factor": (1, None),
    "rope_interleaved": (False,),
    "is_llama_config": (True,),
    "is_encoder_decoder": (False,),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({}, None),
    "tie_encoder_decoder": (False,),
    "torchscript": (False,),
    "use_bfloat16": (False,),
    "quantization_config": (None,),
    "auto_map": (None,),
    "per_layer_config": (None,),
}

# Keys that change no reward: what wrote the file, how weights are stored, labels, options of text generation.
# fmt: off
_INERT = frozenset({
    "transformers_version", "_name_or_path", "_model_name_or_path", "name_or_path", "_commit_hash", "dtype",
    "torch_dtype", "unk_token_id",
    "use_cache", "max_window_layers", "label2id", "problem_type", "finetuning_task", "task_specific_params",
    "tokenizer_class", "prefix", "return_dict", "output_hidden_states", "output_attentions",
    "_attn_implementation", "_attn_implementation_autoset", "attn_implementation",
    "_experts_implementation", "tf_legacy_loss", "unsloth_fixed", "unsloth_version",
    "transformers.js_config", "sep_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "max_length", "min_length",
    "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature",
    "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "remove_invalid_values", "exponential_decay_length_penalty",
})
# fmt: on


def _check_keys(config: Mapping[str, Any]) -> None:
    known = _READ | _IMPLEMENTED.keys() | _INERT | {"sliding_window"}
    unknown = sorted(set(config) - known)
    if unknown:
        raise UserError(
            f"unknown key(s) {', '.join(map(repr, unknown))}. A key nobody reads can change the "
            "model: remove them if they are inert, otherwise this model is not supported"
        )


def _check_heads(config: Mapping[str, Any]) -> None:
    """The checkpoint must be a causal LM, a bare decoder or a classifier with one label of the model type it names."""
    name = HF_NAMES[config["model_type"]]
    accepted = [f"{name}ForCausalLM", f"{name}ForSequenceClassification", f"{name}Model"]
    for architecture in _names(config, "architectures") or []:
        if architecture not in accepted:
            raise UserError(
                f"architectures names {architecture!r}; for this model_type this package reads {', '.join(accepted)}"
            )
    if not is_sequence_classifier(config):
        return  # transformers writes a meaningless two-label map into causal LM configs
    id2label, num_labels = config.get("id2label"), config.get("num_labels")
    if not isinstance(id2label, Mapping | None):
        raise UserError(f"id2label must be a mapping, got {id2label!r}")
    labels = len(id2label) if id2label is not None else num_labels if num_labels is not None else 2
    if labels != 1 or num_labels not in (None, 1):
        raise UserError(
            f"id2label/num_labels give {labels} labels (num_labels={num_labels}), but a reward "
            "model has exactly one: this classifier is not a reward model"
        )


def _check_implemented(config: Mapping[str, Any]) -> None:
    for key, values in _IMPLEMENTED.items():
        if key in config and config[key] not in values:
            raise UserError(
                f"{key}={config[key]!r} is not implemented; only {key}={values[0]!r} is, "
                "so this model would be computed wrongly"
            )
    # A window that `use_sliding_window` switches off is dead; Llama has no such switch.
    if config.get("sliding_window") is not None and config.get("use_sliding_window") is not False:
        raise UserError(
            f"sliding_window={config['sliding_window']!r} is not implemented; "
            "only null, or use_sliding_window=false, is"
        )


def _check_layer_types(config: Mapping[str, Any], layers: int) -> None:
    kinds = _names(config, "layer_types")
    if kinds is None:
        return
    if len(kinds) != layers:
        raise UserError(f"layer_types has {len(kinds)} entries but num_hidden_layers is {layers}")
    other = sorted(set(kinds) - {"full_attention"})
    if other:
        raise UserError(f"layer_types names {', '.join(other)}; only 'full_attention' is implemented")


_LLAMA3_KEYS = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_max_positions",
}


def read_rope(config: Mapping[str, Any]) -> Rope:
    """RoPE from either dialect; where a config carries both, they must say the same."""
    top_theta = None if config.get("rope_theta") is None else _need_float(config, "rope_theta")
    found: dict[str, Rope] = {}
    for dialect in ("rope_scaling", "rope_parameters"):
        if config.get(dialect) not in (None, {}):
            found[dialect] = _read_rope_dict(dialect, config[dialect], top_theta)
    if not found:
        return Rope("default", 10_000.0 if top_theta is None else top_theta)
    new = found.get("rope_parameters")
    old = found.get("rope_scaling")
    if new is None:
        assert old is not None
        return old
    # A config for both readers has theta at the top level for the old one; both must see the same RoPE.
    if top_theta is not None and top_theta != new.theta:
        raise UserError(f"rope_theta={top_theta} but rope_parameters says {new.theta}: the dialects disagree")
    if old is not None and old != new:
        raise UserError(f"rope_scaling ({old}) and rope_parameters ({new}) disagree")
    return new


def _read_rope_dict(dialect: str, record: Mapping[str, Any], top_theta: float | None) -> Rope:
    if not isinstance(record, Mapping):
        raise UserError(f"{dialect} must be a mapping, got {record!r}")
    spelled = [record[key] for key in ("rope_type", "type") if record.get(key) is not None] or ["default"]
    kind = spelled[0]
    if spelled[-1] != kind:
        raise UserError(f"{dialect} has rope_type={kind!r} but type={spelled[-1]!r}")
    if kind not in ("default", "llama3"):
        raise UserError(f"{dialect} has rope_type {kind!r}; only 'default' and 'llama3' are implemented")
    wanted = set(_LLAMA3_KEYS) if kind == "llama3" else set()
    present = {key for key, value in record.items() if value is not None} - {
        "rope_type",
        "type",
        "rope_theta",
    }
    if record.get("partial_rotary_factor") == 1:
        present.discard("partial_rotary_factor")
    if present - wanted:
        raise UserError(
            f"{dialect} has {', '.join(sorted(present - wanted))}, which mean nothing to rope_type {kind!r}"
        )
    if wanted - present:
        raise UserError(f"{dialect} with rope_type {kind!r} lacks {', '.join(sorted(wanted - present))}")
    theta = top_theta if record.get("rope_theta") is None else _need_float(record, "rope_theta")
    return Rope(
        kind,
        10_000.0 if theta is None else theta,
        **{field: record[key] for key, field in _LLAMA3_KEYS.items() if key in wanted},
    )


def _need_int(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key, default)
    if not _is_int(value) or value < 1:
        raise UserError(f"{key} must be a positive integer, got {value!r}")
    return int(value)


def _need_float(config: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = config.get(key, default)
    _positive(key, value)
    return float(value)


def _need_bool(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise UserError(f"{key} must be true or false, got {value!r}")
    return value


def _names(config: Mapping[str, Any], key: str) -> list[str] | None:
    value = config.get(key)
    if value is not None and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise UserError(f"{key} must be a list of names, got {value!r}")
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise UserError(f"{name} must be a positive number, got {value!r}")
