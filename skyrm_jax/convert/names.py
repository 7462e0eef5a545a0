"""The map between Hugging Face tensors and our parameters: name, place, orientation."""

from collections.abc import Iterator
from dataclasses import dataclass

from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.parameters import parameter_table

LAYER_NAMES: dict[str, str] = {
    "attention_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}

SCORE = "score.weight"
LM_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class HfTensor:
    """One tensor of a Hugging Face reward model and where it lives in ours.

    Attributes:
        name: in the safetensors file.
        path: dotted path in `parameter_table`.
        layer: index on axis 0 of the stacked parameter; None if it is not stacked.
        shape: in the safetensors file.
        transpose: torch stores matrices [out, in], we store [in, out].
    """

    name: str
    path: str
    layer: int | None
    shape: tuple[int, ...]
    transpose: bool


def hf_tensors(architecture: Architecture) -> Iterator[HfTensor]:
    """Every tensor of the reward model's Hugging Face file, in the order of the forward pass."""
    table = parameter_table(architecture)
    yield HfTensor("model.embed_tokens.weight", "embed", None, table["embed"].shape, transpose=False)
    for layer in range(architecture.layers):
        for ours, theirs in LAYER_NAMES.items():
            path = f"layers.{ours}"
            if path in table:
                shape = table[path].shape[1:]
                yield HfTensor(
                    f"model.layers.{layer}.{theirs}.weight",
                    path,
                    layer,
                    shape[::-1],
                    transpose=len(shape) == 2,
                )
    yield HfTensor("model.norm.weight", "final_norm", None, table["final_norm"].shape, transpose=False)
    yield HfTensor(SCORE, "score", None, table["score"].shape[::-1], transpose=True)
