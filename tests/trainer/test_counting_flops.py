"""MFU stands on two numbers: what a token costs, and what a device can do at most."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from curriculum_api.presets import PRESETS
from curriculum_api.wire import Precision
from curriculum_trainer import flops

TERA = 1e12

PEAKS = [
    pytest.param("NVIDIA H100 80GB HBM3", (9, 0), "BF16", 989, id="H100"),
    pytest.param("NVIDIA H100 PCIe", (9, 0), "BF16", 756, id="H100-PCIe"),
    pytest.param("NVIDIA H200", (9, 0), "FP8", 1979, id="H200-FP8"),
    pytest.param("NVIDIA B200", (10, 0), "BF16", 2250, id="B200"),
    pytest.param("NVIDIA B200", (10, 0), "MXFP8", 4500, id="B200-MXFP8"),
    pytest.param("NVIDIA B200", (10, 0), "NVFP4", 9000, id="B200-NVFP4"),
    pytest.param("NVIDIA GB200", (10, 0), "BF16", 2500, id="GB200"),
    pytest.param("NVIDIA GB10", (12, 1), "BF16", 125, id="GB10"),
    pytest.param("NVIDIA A100-SXM4-80GB", (8, 0), "BF16", 312, id="A100"),
    pytest.param("Some Board", (10, 0), "BF16", 2250, id="by-capability"),
    pytest.param("NVIDIA A100-SXM4-80GB", (8, 0), "FP8", None, id="A100-has-no-FP8"),
    pytest.param("Some Board", (8, 6), "BF16", None, id="unknown"),
    pytest.param("cpu", None, "BF16", None, id="cpu"),
]


@pytest.mark.parametrize(("name", "capability", "precision", "tera"), PEAKS)
def test_a_peak_is_of_the_device_or_of_its_capability_or_unknown(
    name: str, capability: tuple[int, int] | None, precision: Precision, tera: float | None
) -> None:
    expected = None if tera is None else tera * TERA
    assert expected == flops.peak_flops(name, capability, Precision(precision))


TINY = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("tied", [True, False])
def test_the_formula_is_what_torch_counts(tied: bool) -> None:
    """torch counts attention without the causal mask, so twice of what the formula has."""
    length = 32
    config = AutoConfig.for_model("llama", **TINY, head_dim=8, tie_word_embeddings=tied)
    decoder = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    tokens = torch.zeros((1, length), dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        decoder(input_ids=tokens, use_cache=False).logits.sum().backward()
    attention = 6 * 3 * (4 * 8) * length

    assert (
        counter.get_total_flops() / length
        == flops.model_flops_per_token(config, length) + attention
    )


def test_short_documents_cost_less_attention() -> None:
    config = AutoConfig.for_model("llama", **TINY)
    whole = flops.model_flops_per_token(config, 1000)
    packed = flops.model_flops_per_token(config, 1000, 100.0)

    assert whole - packed == 6 * 3 * 16 * 900
    assert whole == flops.model_flops_per_token(config, 1000, 5000.0)


def test_only_the_experts_that_a_token_meets_count() -> None:
    few = AutoConfig.for_model("mixtral", **TINY, num_local_experts=2, num_experts_per_tok=2)
    many = AutoConfig.for_model("mixtral", **TINY, num_local_experts=8, num_experts_per_tok=2)
    router = 3 * 6 * 16

    assert flops.multiplying_weights(many) - flops.multiplying_weights(few) == router


def test_an_8b_model_costs_51_gflop_a_token_at_4k() -> None:
    config = AutoConfig.for_model(**PRESETS["llama-3.1-8b"])

    assert 48e9 < flops.model_flops_per_token(config, 4096) < 51e9
