"""Floating-point operations of one token, forward and backward.

A product of a weight costs 2 operations forward and 4 backward. Attention is causal and stays
inside a document: a position of a document of n tokens meets n / 2 others on average, so a source
costs the sum of squared lengths over the sum of lengths, not the square of the row's length.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from curriculum_api.estimate.layout import Layout, Recompute
from curriculum_api.estimate.shape import Shape

ATTENTION_BACKWARD = 2.5
"""Fused attention's backward pass over its forward pass: five products for two, because the
scores are computed again (Dao 2023, arXiv 2307.08691, section 3.1)."""


def attended(lengths: Sequence[int], *, row: int) -> float:
    """Tokens over which a token's attention runs: sum of squares over sum.

    Documents longer than a row are cut to it.
    """
    cut = [part for length in lengths for part in _cut(length, row)]
    return sum(part * part for part in cut) / sum(cut)


def mixed(sources: Iterable[tuple[float, float]]) -> float:
    """The same over a mixture of (weight by tokens, attended length)."""
    pairs = list(sources)
    return sum(weight * length for weight, length in pairs) / sum(weight for weight, _ in pairs)


@dataclass(frozen=True, slots=True)
class Work:
    """Operations of one token; `model` counts nothing twice, the others what is executed."""

    model: float
    blocks: float
    """Matrix products of the blocks."""

    head: float
    """Matrix products of the output matrix."""

    attention: float
    """Fused attention."""

    @property
    def executed(self) -> float:
        """All that is computed, twice where it is computed twice."""
        return self.blocks + self.head + self.attention


def of(shape: Shape, layout: Layout, *, length: float) -> Work:
    """The work of one token whose attention runs over `length` tokens.

    Model operations are 6 W + 6 L q n: Chowdhery et al. 2022 (PaLM, arXiv 2204.02311, appendix B)
    with causal attention counted as the half that it is.
    """
    blocks = 2.0 * shape.layers * shape.block_matrices
    head = 2.0 * shape.embedding
    attention = 2.0 * shape.layers * shape.query_width * length
    again = {
        Recompute.NOTHING: 0.0,
        Recompute.SELECTIVE: _selective(shape),
        Recompute.EVERYTHING: 1.0,
    }[layout.recompute]
    attention_again = 1.0 if layout.recompute is Recompute.EVERYTHING else 0.0
    tiled = layout.tile_tokens is not None and layout.tile_tokens < layout.pass_tokens
    return Work(
        model=3 * (blocks + head + attention),
        blocks=blocks * (3 + again),
        head=head * (4 if tiled else 3),
        attention=attention * (1 + ATTENTION_BACKWARD + attention_again),
    )


def _selective(shape: Shape) -> float:
    """Share of a block's products that are computed again: key, output and one of the MLP's."""
    again = shape.hidden * (shape.kv_width + shape.query_width + shape.intermediate)
    return again / shape.block_matrices


def _cut(length: int, row: int) -> Iterable[int]:
    whole, rest = divmod(length, row)
    return [row] * whole + ([rest] if rest else [])
