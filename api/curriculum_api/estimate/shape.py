"""The shape of a dense decoder, read from a preset or a Hugging Face configuration.

Nothing here imports `transformers`: what a configuration leaves out is filled in as that library
would, and a test holds every family and every count against it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curriculum_api.presets import PRESETS


@dataclass(frozen=True, slots=True)
class Family:
    """What a `model_type` fixes, and what it takes where a configuration is silent."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocab: int
    kv_heads: int | None = None
    head_dim: int | None = None
    tied: bool = False
    qkv_bias: bool | None = None
    """Biases of query, key and value whatever `attention_bias` says; None: as it says."""

    output_bias: bool | None = None
    """The same for the attention's output."""

    mlp_bias: bool | None = False
    """The same for the MLP, by `mlp_bias`."""

    head_norm: bool = False
    """Query and key are normalised by head, with one weight per `head_dim`."""

    wide_norm: bool = False
    """Query and key are normalised over all heads at once."""


LARGEST = 10**9
"""No width, depth or vocabulary is beyond it, and what is made of them is still a number."""

FAMILIES: Mapping[str, Family] = {
    "granite": Family(4096, 11008, 32, 32, 32000, mlp_bias=None),
    "llama": Family(4096, 11008, 32, 32, 32000, mlp_bias=None),
    "mistral": Family(4096, 14336, 32, 32, 32000, kv_heads=8, qkv_bias=False, output_bias=False),
    "olmo2": Family(4096, 11008, 32, 32, 50304, wide_norm=True),
    "phi3": Family(3072, 8192, 32, 32, 32064, qkv_bias=False, output_bias=False),
    "qwen2": Family(4096, 22016, 32, 32, 151936, kv_heads=32, qkv_bias=True, output_bias=False),
    "qwen3": Family(4096, 22016, 32, 32, 151936, kv_heads=32, head_dim=128, head_norm=True),
    "smollm3": Family(2048, 11008, 36, 16, 128256, kv_heads=4, tied=True, mlp_bias=None),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder of blocks with a gated MLP (SwiGLU), grouped queries and RMS norms."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False
    """The output matrix is the embedding's."""

    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: int = 0
    """Weights of the query and key norms of one block."""

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads together; the values' is the same."""
        return self.kv_heads * self.head_dim

    @property
    def block_matrices(self) -> int:
        """Weights of one block's matrices: what each of its tokens is multiplied with."""
        attention = self.hidden * (2 * self.query_width + 2 * self.kv_width)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def block(self) -> int:
        """Parameters of one block."""
        biases = (
            self.qkv_bias * (self.query_width + 2 * self.kv_width)
            + self.output_bias * self.hidden
            + self.mlp_bias * (2 * self.intermediate + self.hidden)
        )
        return self.block_matrices + biases + 2 * self.hidden + self.qk_norm

    @property
    def embedding(self) -> int:
        """Parameters of the embedding; the output matrix has as many."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All trained parameters, a tied matrix once."""
        ends = self.embedding * (1 if self.tied else 2)
        return ends + self.layers * self.block + self.hidden

    @property
    def matrices(self) -> int:
        """Weights that every token is multiplied with: the blocks' and the output's.

        The embedding is looked up, not multiplied.
        """
        return self.layers * self.block_matrices + self.embedding


def of_preset(name: str) -> Shape:
    """The shape of a built-in model.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in PRESETS:
        known = ", ".join(sorted(PRESETS))
        raise ValueError(f'model.preset "{name}" is not known: choose one of {known}')
    return of_config(PRESETS[name])


def of_config(config: Mapping[str, Any]) -> Shape:
    """The shape of a Hugging Face configuration.

    Raises:
        ValueError: the model is no dense decoder of a known family, or a number makes no sense.
    """
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        raise ValueError(
            f'model.config: the shape of model_type "{kind}" is not known: choose one of {known}'
        )
    hidden = _count(config, "hidden_size", family.hidden)
    heads = _count(config, "num_attention_heads", family.heads)
    kv_heads = _count(config, "num_key_value_heads", family.kv_heads or heads)
    head_dim = _count(config, "head_dim", family.head_dim or hidden // heads)
    if heads % kv_heads:
        raise ValueError(
            f"model.config: num_key_value_heads {kv_heads} does not divide"
            f" num_attention_heads {heads}: change one of them"
        )
    attention_bias = bool(config.get("attention_bias", False))
    qk_norm = 2 * head_dim if family.head_norm else 0
    if family.wide_norm:
        qk_norm = (heads + kv_heads) * head_dim
    return Shape(
        hidden=hidden,
        intermediate=_count(config, "intermediate_size", family.intermediate),
        layers=_count(config, "num_hidden_layers", family.layers),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=_count(config, "vocab_size", family.vocab),
        tied=bool(config.get("tie_word_embeddings", family.tied)),
        qkv_bias=_either(family.qkv_bias, attention_bias),
        output_bias=_either(family.output_bias, attention_bias),
        mlp_bias=_either(family.mlp_bias, bool(config.get("mlp_bias", False))),
        qk_norm=qk_norm,
    )


def _either(fixed: bool | None, said: bool) -> bool:
    return said if fixed is None else fixed


def _count(config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError(f"model.config: {key} must be a whole number, not {value!r}")
    if not 1 <= value <= LARGEST:
        raise ValueError(f"model.config: {key} must be from 1 to {LARGEST}, not {value}")
    return int(value)
