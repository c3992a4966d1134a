"""Predicted against published: memory of one GPU and tokens a second of runs that others report.

`python benchmarks/published.py` prints the tables; a test reads the same rows. Class numbers are
the chart's and the examples'; what differs in a run is said beside it. Rows name everything that
the publisher tells; where a batch size or a recipe is not told, `assumed` says what was taken.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from curriculum_api.estimate import hardware, memory, recipe, throughput
from curriculum_api.estimate.hardware import GB, GIB, TERA, Hardware, Speed
from curriculum_api.estimate.layout import Kernels, Layout, Recompute
from curriculum_api.estimate.recipe import Recipe
from curriculum_api.estimate.shape import Shape, of_preset
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.wire import Precision, Strategy

ROOT = Path(__file__).parent.parent

LLAMA_8B = of_preset("llama-3.1-8b")
LLAMA_13B = Shape(
    hidden=5120, intermediate=13824, layers=40, heads=40, kv_heads=40, head_dim=128, vocab=32000
)

FUSED = Kernels.COMPILED

TITAN = "pytorch/torchtitan benchmarks/llama3_h100_202412_torchtitan.md"
TITAN_A100 = "pytorch/torchtitan docs/performance.md"
BRIDGE = "NVIDIA/dgx-spark-playbooks station-nvfp4-pretraining"
STAS = "stas00/ml-engineering"
FOUNDRY = "mosaicml/llm-foundry scripts/train/benchmarking/README.md"
SPARK = "manavsehgal.github.io, The GB10 Pretrain Envelope"


@dataclass(frozen=True, slots=True)
class Row:
    """One published run; GiB of one GPU and tokens a second of one GPU, where told."""

    name: str
    source: str
    shape: Shape
    recipe: Recipe
    layout: Layout
    hardware: Hardware
    precision: Precision = Precision.BF16
    gib: float | None = None
    tokens_per_second: float | None = None
    assumed: str = ""

    def predicted_gib(self) -> float:
        """GiB of one GPU by the model, as PyTorch counts: the CUDA context lies outside of it."""
        found = memory.of(self.shape, self.recipe, self.layout, self.hardware)
        return (found.total - memory.FRAMEWORK) / GIB

    def predicted_tokens(self) -> float:
        """Tokens a second of one GPU by the model."""
        made = throughput.of(
            self.shape,
            self.recipe,
            self.layout,
            self.hardware,
            precision=self.precision,
            length=self.layout.context,
        )
        return made.tokens_per_second / self.layout.gpus


def gpt(hidden: int, layers: int, heads: int, vocab: int = 50368) -> Shape:
    """A GPT with an MLP of four widths and no gate, as a gated one of as many weights."""
    return Shape(
        hidden=hidden,
        intermediate=round(8 * hidden / 3),
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        vocab=vocab,
        tied=True,
    )


def classes() -> Mapping[str, Hardware]:
    """The shipped classes, and the variants that the rows ran on."""
    values = yaml.safe_load((ROOT / "helm/curriculum-operator/values.yaml").read_text())
    found = {
        name: _class(name, {"image": "x", **spec})
        for name, spec in values["acceleratorClasses"]["classes"].items()
    }
    for document in yaml.safe_load_all((ROOT / "examples/classes.yaml").read_text()):
        name = document["metadata"]["name"]
        found[name] = _class(name, document["spec"])
    return found


def _class(name: str, spec: Mapping[str, Any]) -> Hardware:
    return hardware.of_class(name, AcceleratorClassSpec.model_validate(spec))


def rows() -> Iterable[Row]:
    """Every run that the model can describe."""
    known = classes()
    yield from _llama_on_blackwell(known)
    yield from _llama_on_hopper(known)
    yield from _llama_on_ampere(known)
    yield from _gpt_on_a_spark(known)
    yield from _mpt_on_hopper(known)


def _llama_on_blackwell(known: Mapping[str, Hardware]) -> Iterable[Row]:
    b200 = known["b200-sm100"]
    # PaLM's count without embeddings' gradient: 6 N + 6 L q n, N with both ends as stas' tool does
    per_token = 6 * LLAMA_8B.parameters + 6 * 32 * 4096 * 8192
    zero2 = Layout(1, 8, Strategy.ZERO2, context=8192)
    yield Row(
        "8B, 8 x B200, ZeRO-2, 8K",
        STAS,
        LLAMA_8B,
        recipe.MIXED,
        zero2,
        # FlashAttention-2 has no kernels for this chip: it runs as on the one before, but faster
        replace(b200, attention=450 * TERA),
        gib=99,
        tokens_per_second=778 * TERA / per_token,
        assumed="one sequence a GPU; FLOPs a token by 6 N + 6 L q n",
    )
    # A DGX Station's GB300: dense peaks of its data sheet, B200's shares of them
    station = replace(
        b200,
        name="GB300",
        gpus_per_node=1,
        link=None,
        matmul={
            Precision.BF16: Speed(2500 * TERA, 2500 * 0.776 * TERA),
            Precision.NVFP4: Speed(15000 * TERA, 15000 * hardware.MATMUL_SHARE * TERA),
        },
        # cuDNN's kernels through Transformer Engine, not FlashAttention-2
        attention=2500 * 0.776 * 0.65 * TERA,
    )
    one = Layout(1, 1, Strategy.DDP, context=4096, micro_batch=4, passes=16, kernels=FUSED)
    for precision, bytes_each, seconds, gigabytes in (
        (Precision.BF16, recipe.MIXED_FP32_GRADIENTS, 9.05, 221.6),
        (Precision.NVFP4, recipe.MIXED_NVFP4, 5.39, 207.8),
    ):
        yield Row(
            f"8B, GB300, 4 x 4K, {precision}",
            BRIDGE,
            LLAMA_8B,
            bytes_each,
            one,
            station,
            precision=precision,
            gib=gigabytes * GB / GIB,
            tokens_per_second=64 * 4096 / seconds,
        )


def _llama_on_hopper(known: Mapping[str, Hardware]) -> Iterable[Row]:
    h100 = known["h100-sm90"]
    # Meta's H100: 96 GB of HBM2e at 2.4 TB/s, limited to 500 W of 700: clocks by the square root
    slow = (500 / 700) ** 0.5
    limited = replace(
        h100,
        name="H100 HBM2e 500 W",
        matmul={p: Speed(s.peak, s.measured * slow) for p, s in h100.matmul.items()},
        attention=h100.attention * slow,
        bandwidth=Speed(2400 * GB, 2400 * 0.8 * GB),
    )
    base = Layout(1, 8, Strategy.ZERO3, context=8192, micro_batch=2, recompute=Recompute.SELECTIVE)
    compiled = replace(base, kernels=FUSED)
    long = Layout(
        1, 8, Strategy.ZERO3, context=32768, recompute=Recompute.EVERYTHING, kernels=FUSED
    )
    fp8 = Precision.FP8
    for name, layout, precision, tokens, gib in (
        ("8B, 8 x H100, FSDP, 2 x 8K", base, Precision.BF16, 5762, 82.4),
        ("8B, 8 x H100, FSDP, compiled", compiled, Precision.BF16, 6667, 77.0),
        ("8B, 8 x H100, FSDP, compiled, FP8", compiled, fp8, 8532, 76.8),
        ("8B, 128 x H100, FSDP, 2 x 8K", replace(base, nodes=16), Precision.BF16, 5605, 67.0),
        ("8B, 128 x H100, compiled", replace(compiled, nodes=16), Precision.BF16, 6514, 62.0),
        ("8B, 128 x H100, compiled, FP8", replace(compiled, nodes=16), fp8, 8380, 61.8),
        ("8B, 8 x H100, recomputed, 32K, FP8", long, fp8, 3890, 83.9),
    ):
        yield Row(
            name,
            TITAN,
            LLAMA_8B,
            recipe.SHARDED_FP32,
            layout,
            limited,
            precision=precision,
            gib=gib,
            tokens_per_second=tokens,
        )
    for nodes, tokens in ((4, 10938), (8, 10753)):
        yield Row(
            f"8B, {8 * nodes} x H200, FSDP, FP8",
            "Trainy and WhiteFiber, torchtitan on H200",
            LLAMA_8B,
            recipe.SHARDED_FP32,
            replace(compiled, nodes=nodes),
            known["h200-sm90"],
            precision=fp8,
            tokens_per_second=tokens,
            assumed="torchtitan's own batch: 2 x 8K, selective recomputation",
        )


def _llama_on_ampere(known: Mapping[str, Hardware]) -> Iterable[Row]:
    a100 = known["a100-sm80"]
    for name, shape, layout, tokens in (
        (
            "Llama 3 8B, 64 x A100, FSDP, 8K",
            LLAMA_8B,
            Layout(
                8, 8, Strategy.ZERO3, context=8192, recompute=Recompute.SELECTIVE, kernels=FUSED
            ),
            2973,
        ),
        (
            "Llama 2 13B, 64 x A100, FSDP, 2 x 4K",
            LLAMA_13B,
            Layout(8, 8, Strategy.ZERO3, context=4096, micro_batch=2, kernels=FUSED),
            2162,
        ),
    ):
        yield Row(
            name,
            TITAN_A100,
            shape,
            recipe.SHARDED_FP32,
            layout,
            a100,
            tokens_per_second=tokens,
            assumed="fused norms",
        )


def _gpt_on_a_spark(known: Mapping[str, Hardware]) -> Iterable[Row]:
    # the publisher's peak is CUDA's: the host's share is not in it
    spark = replace(known["gb10-sm121"], unified=False)
    shape = gpt(1024, 24, 16, vocab=50304)
    for batch, context, precision, tokens, gib in (
        (16, 1024, Precision.BF16, 13626, 25.63),
        (16, 1024, Precision.FP8, 14266, 24.33),
        (8, 1024, Precision.FP8, 13777, 13.49),
        (8, 2048, Precision.FP8, 13641, 24.34),
        (4, 1024, Precision.BF16, 12641, 7.94),
        (2, 1024, Precision.BF16, 11044, 5.26),
    ):
        yield Row(
            f"354M, GB10, {batch} x {context}, {precision}",
            SPARK,
            shape,
            recipe.PURE_BF16 if precision is Precision.BF16 else recipe.PURE_BF16_FP8,
            Layout(1, 1, Strategy.DDP, context=context, micro_batch=batch, kernels=Kernels.NATIVE),
            spark,
            precision=precision,
            gib=gib,
            tokens_per_second=tokens,
            assumed="weights, gradients and moments in BF16",
        )


def _mpt_on_hopper(known: Mapping[str, Hardware]) -> Iterable[Row]:
    # their attention was Triton's of 2023: about 210 TFLOPS on an H100; FlashAttention-2 has 350
    h100 = replace(known["h100-sm90"], attention=210 * TERA)
    again, kept = Recompute.EVERYTHING, Recompute.NOTHING
    small, one, three = gpt(1536, 24, 12), gpt(2048, 24, 16), gpt(2560, 32, 20)
    seven, thirteen = gpt(4096, 32, 32), gpt(5120, 40, 40)
    bf16, fp8 = Precision.BF16, Precision.FP8
    for name, shape, nodes, context, batch, passes, recompute, precision, tokens in (
        ("760M", small, 1, 2048, 24, 2, kept, bf16, 63147),
        ("1B", one, 1, 2048, 14, 1, kept, bf16, 45455),
        ("1B", one, 1, 8192, 3, 4, kept, bf16, 29157),
        ("1B", one, 1, 8192, 2, 4, kept, fp8, 32010),
        ("3B", three, 2, 2048, 10, 3, kept, bf16, 24142),
        ("3B", three, 1, 8192, 3, 6, kept, bf16, 16578),
        ("3B", three, 1, 2048, 10, 6, kept, fp8, 30586),
        ("7B", seven, 1, 2048, 6, 1, kept, bf16, 10643),
        ("7B", seven, 1, 4096, 16, 2, again, bf16, 8611),
        ("7B", seven, 1, 8192, 8, 2, again, bf16, 6935),
        ("7B", seven, 1, 32768, 2, 2, again, bf16, 3318),
        ("7B", seven, 1, 65536, 1, 2, again, bf16, 1956),
        ("13B", thirteen, 1, 2048, 2, 1, kept, bf16, 4792),
        ("13B", thirteen, 1, 4096, 10, 3, again, bf16, 4717),
        ("13B", thirteen, 1, 16384, 3, 3, again, bf16, 2985),
        ("30B", gpt(7168, 48, 56), 4, 2048, 14, 3, again, bf16, 2308),
        ("70B", gpt(8192, 80, 64), 8, 2048, 8, 4, again, bf16, 1039),
    ):
        layout = Layout(
            nodes,
            8,
            Strategy.ZERO3,
            context=context,
            micro_batch=batch,
            passes=passes,
            recompute=recompute,
            kernels=Kernels.NATIVE,
        )
        yield Row(
            f"MPT {name}, {8 * nodes} x H100, {batch} x {context}, {precision}",
            FOUNDRY,
            shape,
            recipe.SHARDED_FP32,
            layout,
            h100,
            precision=precision,
            tokens_per_second=tokens,
        )


def _table(title: str, lines: Iterable[tuple[str, float, float]]) -> None:
    print(f"\n{title:44} {'predicted':>10} {'published':>10} {'error':>7}")
    for name, predicted, published in lines:
        print(f"{name:44} {predicted:10,.1f} {published:10,.1f} {predicted / published - 1:+7.1%}")


def main() -> int:
    """Print both tables."""
    found = list(rows())
    _table("GiB of one GPU", [(r.name, r.predicted_gib(), r.gib) for r in found if r.gib])
    _table(
        "tokens/s of one GPU",
        [(r.name, r.predicted_tokens(), r.tokens_per_second) for r in found if r.tokens_per_second],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
