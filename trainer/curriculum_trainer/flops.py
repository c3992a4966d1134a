"""What a token costs in floating-point operations, and what a device can do; for MFU only.

Model FLOPs utilisation, MFU, is tokens/s times the FLOPs that the model itself needs per token,
over the peak of all devices (Chowdhery et al. 2022, PaLM, arXiv 2204.02311, appendix B). What is
computed twice, as with activation checkpointing, does not count.
"""

from typing import Any

from curriculum_api.wire import Precision

TERA = 1e12

_PEAKS: tuple[tuple[str, dict[Precision, float]], ...] = (
    # NVIDIA DGX B200 and B300 data sheets: dense is half of the figure with sparsity
    ("GB300", {Precision.BF16: 2500, Precision.FP8: 5000, Precision.NVFP4: 15000}),
    ("B300", {Precision.BF16: 2250, Precision.FP8: 4500, Precision.NVFP4: 13500}),
    ("GB200", {Precision.BF16: 2500, Precision.FP8: 5000, Precision.NVFP4: 10000}),
    ("B200", {Precision.BF16: 2250, Precision.FP8: 4500, Precision.NVFP4: 9000}),
    # derived from the DGX Spark data sheet's 1 PFLOP of sparse FP4: a quarter of half of it is
    # BF16; a large BF16 matmul was measured at 91 to 92
    ("GB10", {Precision.BF16: 125, Precision.FP8: 250}),
    # NVIDIA H100 and H200 data sheets, SXM
    ("H200", {Precision.BF16: 989, Precision.FP8: 1979, Precision.FP32: 67}),
    ("H100 PCIE", {Precision.BF16: 756, Precision.FP8: 1513, Precision.FP32: 51}),
    ("H100", {Precision.BF16: 989, Precision.FP8: 1979, Precision.FP32: 67}),
    # NVIDIA A100 data sheet
    ("A100", {Precision.BF16: 312, Precision.FP32: 19.5}),
)
"""Dense TFLOPS by a part of the device's name, the more special name first."""

_BY_CAPABILITY = {(8, 0): "A100", (9, 0): "H100", (10, 0): "B200", (10, 3): "B300", (12, 1): "GB10"}
"""The device that a compute capability stands for where the name is not known."""


def peak_flops(
    device_name: str, capability: tuple[int, int] | None, precision: Precision
) -> float | None:
    """Dense FLOPs per second of one device, by its data sheet; None where none is known.

    MXFP8 has FP8's peak. Of a format that the table lacks, none is guessed.
    """
    wanted = Precision.FP8 if precision is Precision.MXFP8 else precision
    stands_for = _BY_CAPABILITY.get(capability, "") if capability is not None else ""
    for name in (device_name.upper(), stands_for):
        for part, peaks in _PEAKS:
            if part in name:
                return peaks[wanted] * TERA if wanted in peaks else None
    return None


def model_flops_per_token(
    config: Any, context_length: int, mean_document_length: float | None = None
) -> float:
    """FLOPs of one token, forward and backward: 6 N + 6 L h s.

    N counts the weights that multiply: every matrix but the input embeddings, which are only
    looked up, and of a mixture of experts the share that a token passes through. A weight costs
    2 FLOPs forward and 4 backward. L is the number of blocks, h heads times head width, s the
    length over which a token attends. PaLM's 12 L h s assumes that every token attends to all
    of the sequence; causal attention over s tokens does half of it.

    Documents attend to themselves only, so s is the mean document length as a token meets it,
    the sum of squared lengths over the sum of lengths, and never more than the context.
    """
    length = float(context_length)
    if mean_document_length is not None:
        length = min(length, mean_document_length)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    attention: float = 6 * config.num_hidden_layers * heads * width * length
    return 6 * multiplying_weights(config) + attention


def multiplying_weights(config: Any) -> float:
    """Weights of the model that a token is multiplied with."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        decoder = AutoModelForCausalLM.from_config(config)
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    share = config.num_experts_per_tok / experts if experts else 1.0
    count = 0.0
    for module in decoder.modules():
        if isinstance(module, torch.nn.Embedding):
            continue
        for weight in module._parameters.values():
            if weight is not None and weight.ndim >= 2:
                # transformers keeps the matrices of all experts in one tensor
                count += weight.numel() * (share if weight.ndim == 3 else 1.0)
    return count
