"""Attention within documents: one kernel for all of them, or one call for each, is the same."""

from typing import Any

import pytest
import torch
from torch.nn.attention import varlen

from curriculum_api.run import PhaseRun
from curriculum_trainer import sequence_parallel
from curriculum_trainer.sequence_parallel import Documents

from .phases import Phases

pytestmark = pytest.mark.trainer

LENGTHS = ((5, 1, 10), (0, 16, 0), (7, 9))


def _reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ends: torch.Tensor,
    same_ends: torch.Tensor,
    longest: int,
    _longest: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What `varlen_attn` promises, by a mask over all tokens of all rows."""
    assert ends is same_ends
    assert ends.dtype == torch.int32
    assert window_size == (-1, 0)
    assert longest == max(ends.diff())
    assert enable_gqa == (query.shape[1] != key.shape[1])
    document = torch.bucketize(torch.arange(len(query)), ends, right=True)
    mask = (document[:, None] == document[None, :]).tril()
    q, k, v = (x.transpose(0, 1) for x in (query, key, value))
    out = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
    )
    return out.transpose(0, 1)


def _both_ways(key_heads: int, lengths: tuple[tuple[int, ...], ...]) -> tuple[Any, Any]:
    varlen.varlen_attn = _reference
    query, key, value = _random(key_heads)
    found, expected = (
        within(query, key, value, documents=Documents(lengths), scaling=0.3)
        for within in (sequence_parallel._in_one_kernel, sequence_parallel._one_by_one)
    )
    return found.numpy(), expected.numpy()


def _shared_and_own(_run: PhaseRun) -> bool:
    query, key, value = _random(2)
    documents = Documents(LENGTHS)
    shared = sequence_parallel._one_by_one(query, key, value, documents=documents, scaling=None)
    key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    own = sequence_parallel._one_by_one(query, key, value, documents=documents, scaling=None)
    return bool(torch.equal(shared, own))


def _random(key_heads: int) -> list[torch.Tensor]:
    make = torch.Generator().manual_seed(3)
    return [torch.randn(3, heads, 16, 8, generator=make) for heads in (4, key_heads, key_heads)]


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_one_kernel_gets_the_documents_of_all_rows(phases: Phases, key_heads: int) -> None:
    ((found, expected),) = phases.together(phases.run(), lambda _: _both_ways(key_heads, LENGTHS))

    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param(((16,), (16,), (16,)), id="all-of-one-document"),
        pytest.param(((16,), (16,), (5, 11)), id="some-of-one-document"),
        pytest.param(((7, 9), (7, 9), (16,)), id="neighbours-cut-alike"),
        pytest.param(((7, 9), (16,), (7, 9)), id="cut-alike-apart"),
    ],
)
def test_rows_that_are_cut_alike_attend_as_if_alone(
    phases: Phases, lengths: tuple[tuple[int, ...], ...]
) -> None:
    ((found, expected),) = phases.together(phases.run(), lambda _: _both_ways(2, lengths))

    assert found == pytest.approx(expected, abs=1e-6)


def test_heads_that_share_keys_attend_as_if_each_had_its_own(phases: Phases) -> None:
    assert phases.together(phases.run(), _shared_and_own) == [True]
