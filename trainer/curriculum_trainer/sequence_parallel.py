"""Attention over packed documents, with the sequence spread over ranks (Ulysses).

Each rank holds a part of every sequence and all heads; for attention the ranks exchange, so that
each holds the whole sequence and a part of the heads, attends causally within each document, and
exchanges back (Jacobs et al. 2023, arXiv 2309.14509). Degree 1 takes the same path without the
exchange, so every strategy computes the same numbers. Registered as a `transformers` attention
function; it never builds a mask.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional
from transformers import AttentionInterface

NAME = "packed_documents"
"""The attention implementation's name in a model's configuration while it trains."""


class _Exchange(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped here
    """All-to-all over dimension 0; its own transpose, so also its own gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        received = torch.empty_like(x, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, x.contiguous(), group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Exchange.apply(grads[0], ctx.group), None


def sequence_group(*, world_size: int, degree: int, rank: int) -> Any:
    """The process group of the ranks that share this rank's sequences; None for degree 1."""
    if degree == 1:
        return None
    mine = None
    for first in range(0, world_size, degree):
        group = dist.new_group(list(range(first, first + degree)))
        if first <= rank < first + degree:
            mine = group
    return mine


def register(group: Any) -> None:
    """Make `NAME` an attention implementation whose ranks are those of `group`."""
    degree = dist.get_world_size(group) if group is not None else 1

    # the lengths of documents change with every row, and compiled code would be made anew for each
    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch is untyped here
    def attend(
        _module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        _mask: Any,
        *,
        scaling: float | None = None,
        document_lengths: tuple[tuple[int, ...], ...],
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """[rows, heads, part of the sequence, width] in, [rows, part, heads, width] out."""
        if degree > 1:
            query, key, value = _to_heads(query, key, value, group=group, degree=degree)
        out = _within_documents(query, key, value, lengths=document_lengths, scaling=scaling)
        if degree > 1:
            out = _to_sequence(out, group=group, degree=degree)
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register(NAME, attend)


def _within_documents(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    lengths: tuple[tuple[int, ...], ...],
    scaling: float | None,
) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    rows = []
    for number, row in enumerate(lengths):
        parts = zip(
            *(x[number : number + 1].split(row, dim=2) for x in (query, key, value)), strict=True
        )
        attended = [
            functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped
            )
            for q, k, v in parts
            if q.shape[2]
        ]
        rows.append(torch.cat(attended, dim=2))
    return torch.cat(rows, dim=0)


def _to_heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, group: Any, degree: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All heads of a part of the sequence to a part of the heads of all of it, in one exchange."""
    copies = degree // math.gcd(degree, key.shape[1])
    if copies > 1:
        key, value = key.repeat_interleave(copies, 1), value.repeat_interleave(copies, 1)
    rows, _, part, width = query.shape
    cut = [x.reshape(rows, degree, x.shape[1] // degree, part, width) for x in (query, key, value)]
    heads = [x.shape[2] for x in cut]
    sent = torch.cat(cut, dim=2).permute(1, 0, 2, 3, 4)
    received = _Exchange.apply(sent, group)
    whole = received.permute(1, 2, 0, 3, 4).reshape(rows, sum(heads), degree * part, width)
    q, k, v = whole.split(heads, dim=1)
    return q, k, v


def _to_sequence(out: torch.Tensor, *, group: Any, degree: int) -> torch.Tensor:
    rows, heads, length, width = out.shape
    sent = out.reshape(rows, heads, degree, length // degree, width).permute(2, 0, 1, 3, 4)
    received = _Exchange.apply(sent, group)
    return received.permute(1, 0, 2, 3, 4).reshape(rows, degree * heads, length // degree, width)
