"""Attention over packed documents, with the sequence spread over ranks (Ulysses).

Each rank holds a part of every sequence and all heads; for attention the ranks exchange, so that
each holds the whole sequence and a part of the heads, attends causally within each document, and
exchanges back (Jacobs et al. 2023, arXiv 2309.14509). Degree 1 takes the same path without the
exchange, so every strategy computes the same numbers. Registered as a `transformers` attention
function; it never builds a mask.
"""

import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.attention import varlen
from transformers import AttentionInterface

NAME = "packed_documents"
"""The attention implementation's name in a model's configuration while it trains."""

_FLASH_WIDTH = 256
"""The widest head that flash attention computes."""


class Documents:
    """Per row, the lengths of its documents, on their way through the blocks to the attention.

    An object and no tuple: compiled blocks are made anew for every tuple of another length, and
    look into an object only where they use it, which is never.
    """

    def __init__(self, lengths: tuple[tuple[int, ...], ...]) -> None:
        self.lengths = lengths

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max(max(row) for row in self.lengths)

    def ends(self, device: torch.device) -> torch.Tensor:
        """Where each document of all rows together ends, after a leading 0."""
        if self._ends is None:
            lengths = torch.tensor([0, *(n for row in self.lengths for n in row if n)])
            self._ends = lengths.cumsum(0, dtype=torch.int32).to(device)
        return self._ends

    _ends: torch.Tensor | None = None


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
        documents: Documents,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """[rows, heads, part of the sequence, width] in, [rows, part, heads, width] out."""
        kind = query.device.type
        if torch.is_autocast_enabled(kind):
            # rotary positions leave queries and keys in FP32, twice the bytes to exchange
            dtype = torch.get_autocast_dtype(kind)
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        if degree > 1:
            query, key, value = _to_heads(query, key, value, group=group, degree=degree)
        within = _in_one_kernel if _has_kernel(query) else _one_by_one
        out = within(query, key, value, documents=documents, scaling=scaling)
        if degree > 1:
            out = _to_sequence(out, group=group, degree=degree)
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register(NAME, attend)


def _has_kernel(query: torch.Tensor) -> bool:
    """Whether flash attention over documents of any length exists for these numbers here."""
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] <= _FLASH_WIDTH
        and query.shape[-1] % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _in_one_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    documents: Documents,
    scaling: float | None,
) -> torch.Tensor:
    rows, heads, length, _ = query.shape
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    # one tensor for both: cuDNN takes causal documents only where it sees that they are the same
    ends = documents.ends(query.device)
    out = varlen.varlen_attn(
        q,
        k,
        v,
        ends,
        ends,
        documents.longest,
        documents.longest,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=heads != key.shape[1],
    )
    return out.unflatten(0, (rows, length)).transpose(1, 2)


def _one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    documents: Documents,
    scaling: float | None,
) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    # rows that are cut alike attend together: most of pre-training's are one document each
    alike = [(cuts, len(tuple(rows))) for cuts, rows in itertools.groupby(documents.lengths)]
    counts = [count for _, count in alike]
    rows = zip(*(_split(x, counts, dim=0) for x in (query, key, value)), strict=True)
    attended = [
        _joined(
            [
                functional.scaled_dot_product_attention(
                    q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped
                )
                for q, k, v in zip(*(_split(x, cuts, dim=2) for x in some), strict=True)
                if q.shape[2]
            ],
            dim=2,
        )
        for (cuts, _), some in zip(alike, rows, strict=True)
    ]
    return _joined(attended, dim=0)


def _split(x: torch.Tensor, sizes: Sequence[int], *, dim: int) -> Sequence[torch.Tensor]:
    """Parts of `x`; all of it as it is, where a split would only copy its gradient."""
    return (x,) if len(sizes) == 1 else x.split(list(sizes), dim=dim)


def _joined(parts: Sequence[torch.Tensor], *, dim: int) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


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
