"""The decoder of Qwen3 and Llama: one body whose differences are facts of the `Architecture`.

Axis letters: B rows, T tokens in a row, D hidden, F mlp, H query heads, G kv heads, E head_dim, L layers, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from skyrm_jax import attention
from skyrm_jax.attention.pooled import attend_at
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.layer_scan import scan_onto
from skyrm_jax.models.linear import from_bits, matmul
from skyrm_jax.models.parameters import Params
from skyrm_jax.models.rope import inv_freq
from skyrm_jax.models.sharding import ROW_AXES

_save = jax.checkpoint_policies.save_only_these_names
REMAT_POLICIES: dict[str, Any] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": _save("attention_out", "attention_lse"),
    "minimal": _save("attention_out", "attention_lse", "qkv", "middle", "gate_up"),
    "none": jax.checkpoint_policies.everything_saveable,
}
"""What a layer keeps for its backward pass, from nothing to everything."""


def rms_norm(x: Float[Array, "... D"], weight: Float[Array, "D"], eps: float) -> Float[Array, "... D"]:
    """x / sqrt(mean(x^2) + eps) * weight, in fp32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * weight.astype(jnp.float32)


def rotary_table(
    positions: Int[Array, "N"], architecture: Architecture
) -> tuple[Float[Array, "N 1 E"], Float[Array, "N 1 E"]]:
    """cos and sin of the RoPE angles in fp32, for both halves of a head."""
    frequencies = jnp.asarray(inv_freq(architecture.rope, architecture.head_dim))
    angles = positions[..., None].astype(jnp.float32) * frequencies
    angles = jnp.concatenate([angles, angles], -1)[:, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "N H E"], cos: Array, sin: Array) -> Float[Array, "N H E"]:
    """Rotary position embedding in the half-split form of transformers (`rotate_half`)."""
    first, second = jnp.split(x, 2, -1)
    return x * cos + jnp.concatenate([-second, first], -1) * sin


class Layer(nnx.Module):
    """One decoder layer, or all of them stacked on the parameters' axis 0."""

    attention_norm: nnx.Param[Array]
    q: nnx.Param[Array]
    k: nnx.Param[Array]
    v: nnx.Param[Array]
    o: nnx.Param[Array]
    q_norm: nnx.Param[Array]  # with qk_norm only
    k_norm: nnx.Param[Array]
    mlp_norm: nnx.Param[Array]
    gate: nnx.Param[Array]
    up: nnx.Param[Array]
    down: nnx.Param[Array]

    def __init__(self, params: Params):
        for name, value in params.items():
            setattr(self, name, nnx.Param(value))

    def attend(self, x: Array, rows: int, mask: attention.Mask, cos: Array, sin: Array, model: "Decoder") -> Array:
        """Self-attention under the tree mask: [B * T, D] normed fp32 -> [B * T, D] fp32."""
        q, k, v = self._heads(x, "qkv", rows, cos, sin, model)
        return self._joined(model.attention.attend(q, k, v, mask), model)

    def _heads(self, x: Array, names: str, rows: int, cos: Array, sin: Array, model: "Decoder") -> list[Array]:
        """Those of queries, keys and values that `names` says, [B, T, H, E] each: normed and rotated if they are to be."""
        a, dtype = model.architecture, model.compute_dtype
        products = matmul(x, tuple(getattr(self, name)[...] for name in names), dtype, ("hidden", "heads"))
        heads = []
        for name, y in zip(names, products, strict=True):
            y = checkpoint_name(y.astype(dtype), "qkv").reshape(y.shape[0], -1, a.head_dim)
            if name != "v":
                if a.qk_norm:
                    y = rms_norm(y, (self.q_norm if name == "q" else self.k_norm)[...], a.rms_eps)
                y = rotate(y.astype(jnp.float32), cos, sin).astype(dtype)
            heads.append(y.reshape(rows, -1, *y.shape[1:]))
        return heads

    def _joined(self, heads: Float[Array, "B T H E"], model: "Decoder") -> Float[Array, "N D"]:
        """The output projection of all heads, in fp32; N = B T."""
        x = heads.reshape(heads.shape[0] * heads.shape[1], -1)
        return matmul(x, (self.o[...],), model.compute_dtype, ("heads", "hidden"))[0]

    def feed_forward(self, x: Array, dtype: Any) -> Array:
        """SwiGLU: down(silu(gate(x)) * up(x))."""
        gate, up = matmul(x, (self.gate[...], self.up[...]), dtype, ("hidden", "mlp"))
        gate, up = (checkpoint_name(y.astype(dtype), "gate_up").astype(jnp.float32) for y in (gate, up))
        product = (jax.nn.silu(gate) * up).astype(dtype)  # here, so that its gradient is no larger
        return matmul(product, (self.down[...],), dtype, ("mlp", "hidden"))[0]

    def __call__(self, x: Array, mask: attention.Mask, cos: Array, sin: Array, model: "Decoder") -> Array:
        """[B, T, D] -> [B, T, D]. Within, tokens have one axis: XLA spreads loops over a CPU's cores by the first one."""
        shape, x = x.shape, x.reshape(-1, x.shape[-1])
        with jax.named_scope("attention"):
            h = rms_norm(x, self.attention_norm[...], model.architecture.rms_eps)
            attended = self.attend(h, shape[0], mask, cos, sin, model)
        return self._after(x, attended, model).reshape(shape)

    def _after(self, x: Float[Array, "N D"], attended: Float[Array, "N D"], model: "Decoder") -> Float[Array, "N D"]:
        """What follows attention, token by token."""
        dtype = model.compute_dtype
        x = checkpoint_name((x + attended).astype(dtype), "middle")
        with jax.named_scope("mlp"):
            h = rms_norm(x, self.mlp_norm[...], model.architecture.rms_eps)
            return (x + self.feed_forward(h, dtype)).astype(dtype)

    def at(
        self, x: Float[Array, "B T D"], index: Int[Array, "B S"], end: Array, cos: Array, sin: Array, model: "Decoder"
    ) -> Float[Array, "B S D"]:
        """`__call__` of the tokens `index` of each row: of the others it needs keys and values alone."""
        (rows, _, width), eps = x.shape, model.architecture.rms_eps
        picked = jnp.take_along_axis(x, index[..., None], 1).reshape(-1, width)
        with jax.named_scope("attention"):
            h, of_picked = (rms_norm(y, self.attention_norm[...], eps) for y in (x.reshape(-1, width), picked))
            k, v = self._heads(h, "kv", rows, cos, sin, model)
            cos, sin = (
                jnp.take_along_axis(y.reshape(rows, -1, y.shape[-1]), index[..., None], 1).reshape(-1, 1, y.shape[-1])
                for y in (cos, sin)
            )
            (q,) = self._heads(of_picked, "q", rows, cos, sin, model)
            attended = self._joined(attend_at(q, k, v, end, index), model)
        return self._after(picked, attended, model).reshape(rows, -1, width)


class Decoder(nnx.Module):
    """Embedding and stacked layers. The final norm belongs to whoever reads the hidden states.

    Layers in bf16 may be given as their bits (`linear.as_bits`), which on CPUs makes them cheap to take one by one.
    """

    def __init__(
        self,
        architecture: Architecture,
        params: Params,
        compute_dtype: Any,
        remat: str = "full",
        backend: str = "auto",
    ):
        self.architecture = architecture
        self.compute_dtype = jnp.dtype(compute_dtype)
        self.remat = remat
        self.attention = attention.backend(backend)
        self.embed = nnx.Param(params["embed"])
        self.layers = Layer(params["layers"])

    def __call__(
        self,
        embedded: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        end: Int[Array, "B T"],
        sums: Params | None = None,
    ) -> Float[Array, "B T D"]:
        """Hidden states before the final norm, in the compute dtype. `end` is the tree mask (see attention).

        With `sums`, like `params["layers"]`, the gradient by the layers comes out added to them (see layer_scan); it
        keeps layer inputs alone, as `remat="full"` does.
        """
        x, constants = self._begin(embedded, positions, end)

        def body(x: Array, layer: Layer, *constants: Any) -> Array:
            return _constrain(jax.tree.map(from_bits, layer)(x, *constants, self))

        if sums is not None:
            return scan_onto(body, x, self.layers, Layer(sums), constants)
        # prevent_cse is for remat outside of scan; inside it only hinders fusion.
        checkpointed = jax.checkpoint(body, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        x, _ = jax.lax.scan(lambda x, layer: (checkpointed(x, layer, *constants), None), x, self.layers)
        return x

    def at(
        self,
        embedded: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        end: Int[Array, "B T"],
        index: Int[Array, "B S"],
    ) -> Float[Array, "B S D"]:
        """What `__call__` gives, of the tokens `index` of each row alone: the last layer leaves out what nobody reads."""
        x, constants = self._begin(embedded, positions, end)

        def layer(i: Any) -> Layer:
            return jax.tree.map(lambda w: from_bits(jax.lax.dynamic_index_in_dim(w, i, keepdims=False)), self.layers)

        last = self.architecture.layers - 1
        x = jax.lax.fori_loop(0, last, lambda i, x: _constrain(layer(i)(x, *constants, self)), x)
        return _constrain(layer(last).at(x, index, end, *constants[1:], self))

    def _begin(
        self, embedded: Array, positions: Array, end: Array
    ) -> tuple[Array, tuple[attention.Mask, Array, Array]]:
        """What the first layer reads, and what all of them do: mask, cos and sin."""
        constants = (self.attention.prepare(end), *rotary_table(positions.reshape(-1), self.architecture))
        return _constrain(embedded.astype(self.compute_dtype)), constants


def _constrain(x: Array) -> Array:
    """Activations are spread by row; without a mesh there is nothing to say."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(ROW_AXES, None, None))
