"""The reward model: a decoder, and a linear head read at each response's pooled token."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.decoder import Decoder, rms_norm
from skyrm_jax.models.parameters import Params


class RewardModel(nnx.Module):
    """Scalar rewards of packed trees. A plain pytree: use it under jax.jit, jax.grad and friends directly."""

    def __init__(
        self,
        architecture: Architecture,
        params: Params,
        compute_dtype: Any = jnp.bfloat16,
        remat: str = "full",
        attention: str = "auto",
    ):
        self.decoder = Decoder(architecture, params, compute_dtype, remat, attention)
        self.final_norm = nnx.Param(params["final_norm"])
        self.score = nnx.Param(params["score"])

    def params(self) -> Params:
        """The parameters as the nested dict of `parameters.parameter_table`."""
        layers = {name: value[...] for name, value in vars(self.decoder.layers).items() if isinstance(value, nnx.Param)}
        return {
            "embed": self.decoder.embed[...],
            "final_norm": self.final_norm[...],
            "layers": dict(sorted(layers.items())),
            "score": self.score[...],
        }

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        end: Int[Array, "B T"],
        reward_index: Int[Array, "B S"],
    ) -> Float[Array, "B S"]:
        """Rewards in fp32, one per leaf slot; unused slots hold the reward of whatever token they point at."""
        return self.of_embedded(self.decoder.embed[...][tokens], positions, end, reward_index)

    def of_embedded(
        self,
        embedded: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        end: Int[Array, "B T"],
        reward_index: Int[Array, "B S"],
        sums: Params | None = None,
    ) -> Float[Array, "B S"]:
        """The same from the tokens' embeddings, for who differentiates by them; `sums` as in `Decoder`."""
        hidden = self.decoder(embedded, positions, end, sums)
        # The norm is per token, so only the pooled tokens need it.
        return self._rewards(self._normed(jnp.take_along_axis(hidden, reward_index[..., None], axis=1)))

    def rewards(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        end: Int[Array, "B T"],
        reward_index: Int[Array, "B S"],
    ) -> Float[Array, "B S"]:
        """`__call__` with less work, for who does not differentiate."""
        return self._rewards(self.hidden_states(tokens, positions, end, reward_index))

    def hidden_states(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        end: Int[Array, "B T"],
        reward_index: Int[Array, "B S"],
    ) -> Float[Array, "B S D"]:
        """What the head reads: the pooled tokens' hidden states after the final norm, in fp32."""
        return self._normed(self.decoder.at(self.decoder.embed[...][tokens], positions, end, reward_index))

    def _normed(self, pooled: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        return rms_norm(pooled, self.final_norm[...], self.decoder.architecture.rms_eps)

    def _rewards(self, normed: Float[Array, "B S D"]) -> Float[Array, "B S"]:
        with jax.named_scope("reward"):
            head = self.score[...][:, 0].astype(jnp.float32)
            return jnp.einsum("bsd,d->bs", normed, head, precision=jax.lax.Precision.HIGHEST)
