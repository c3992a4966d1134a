"""Does extending the context teach a model to find what lies further back than it had seen?

    learn, 80 tokens ─▶ short, 512 tokens ─┬─▶ asked at 512 to 4,096 as it is
                                           └─▶ long, 4,096 tokens ─▶ asked the same questions

A model of 0.5M parameters learns to look up codes on short, dense documents, then at 512 tokens.
One arm is asked for needles at up to 4,096 tokens as it is, the other after a ContextExtension
phase at 4,096 with a raised rotary base. Both see the same questions in the same held-out text,
and each needle lies among three others: a guess among those is right one time in four.

    python -m benchmarks.needle_extension

Prints the share of needles found by length and depth, and draws build/bench/needle_extension.png.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot

from curriculum_trainer import needles, texts, tokenizing
from curriculum_trainer import prepare as preparation

ROOT: Final = Path(__file__).resolve().parent.parent
WORK: Final = ROOT / "build/bench/needle-extension"
LEARN, SHORT, LONG = 80, 512, 4096
LENGTHS: Final = (512, 1024, 2048, 4096)
NEEDLES: Final = 33
THETA: Final = {"learn": 1e4, "short": 1e4, "long": 5e5}
"""The rotary base of each phase; the last raises it as Llama 3 does."""

VOCABULARY: Final = 1024
MODEL: Final = {
    "model_type": "lfm2",
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "block_auto_adjust_ff_dim": False,
    "num_hidden_layers": 2,
    "layer_types": ["conv", "full_attention"],
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": SHORT,
    "initializer_range": 0.1,
    "tie_embedding": False,
}
"""An LFM2: a convolution tells each token what stands before it, and attention looks it up.

Attention alone has to learn the first before the second is of any use, which took so narrow a
model far more tokens; and with the usual initial 0.02 it attends evenly for very long.
"""

TRAINED_ON: Final = ("asyncio", "json", "http", "importlib", "multiprocessing", "unittest", "xml")
HELD_OUT: Final = ("email", "logging")
"""Packages of Python's library, the haystacks."""


@dataclass(frozen=True, slots=True)
class Documents:
    """A source of documents that hold facts."""

    length: int
    gap: int
    """Tokens of haystack between facts, on average."""

    times: int
    count: int

    @property
    def name(self) -> str:
        """Its folder."""
        return f"facts-{self.length}-{self.gap}"


@dataclass(frozen=True, slots=True)
class Stage:
    """A phase that trains."""

    name: str
    length: int
    batch: int
    """Sequences of one optimizer step."""

    rate: float
    tokens: int
    data: tuple[Documents, ...]
    micro_batch: int


def stages(options: argparse.Namespace) -> tuple[Stage, ...]:
    """What is trained, in order."""

    def documents(length: int, gap: int, times: int, tokens: int) -> Documents:
        return Documents(length, gap, times, max(2, tokens // length))

    learn, short, long = options.tokens
    return (
        Stage("learn", LEARN, 24, options.rate, learn, (documents(LEARN, 1, 3, learn),), 24),
        Stage(
            "short", SHORT, 8, options.rate / 2, short,
            (documents(SHORT, 4, 2, short), documents(SHORT, 60, 2, short)), 8,
        ),
        Stage(
            "long", LONG, 2, options.rate / 2, long,
            (documents(LONG, 24, 2, long), documents(LONG, 240, 2, long)), 1,
        ),
    )  # fmt: skip


def main() -> int:
    """Train both arms, ask both, show; 1 where extending did not help."""
    options = _parser().parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    began = time.monotonic()
    planned = stages(options)
    prepare(planned)
    print(f"prepared in {time.monotonic() - began:.0f} s", flush=True)
    results: dict[str, dict[str, Any]] = {}
    for before, stage in zip((None, *planned), planned, strict=False):
        results[stage.name] = train(stage, results[before.name] if before else None)
        told = results[stage.name]
        print(
            f"phase {stage.name}: loss {told['lossFirst']:.3f} to {told['lossLast']:.3f} over "
            f"{told['tokens']:,} tokens in {told['seconds']:.0f} s",
            flush=True,
        )
    arms = {f"trained at {SHORT}": "short", f"extended to {LONG:,}": "long"}
    found = {
        arm: {length: ask(name, results[name], length) for length in LENGTHS}
        for arm, name in arms.items()
    }
    print(table(found))
    picture = WORK.parent / "needle_extension.png"
    draw(found, picture)
    print(f"in {time.monotonic() - began:.0f} s; drawn in {picture.relative_to(ROOT)}")
    without, extended = (found[arm][LONG]["needle"] for arm in arms)
    return 0 if extended > without else 1


def prepare(planned: tuple[Stage, ...]) -> None:
    """A tokenizer that knows the facts' words, documents to train on, and held-out text."""

    def spoken() -> Iterator[str]:
        for path in texts.find([f"python:stdlib/{name}" for name in TRAINED_ON], pattern="*.py"):
            yield path.read_text(encoding="utf-8", errors="replace")
        said = [f" {word}" for word in (*needles.WORDS, *needles.NUMBERS)]
        yield 500 * f"{needles.OPENING}{''.join(said)}{needles.CLOSING}"

    data = WORK / "data"
    tokenizing.train(spoken(), vocab_size=VOCABULARY, folder=data / "tokenizer")
    tokenizer = ["--tokenizer", str(data / "tokenizer")]
    for documents in {each for stage in planned for each in stage.data}:
        _check(
            needles.main(
                [*tokenizer, "--output", str(data / documents.name),
                 "--length", str(documents.length), "--documents", str(documents.count),
                 "--gap", str(documents.gap), "--times", str(documents.times),
                 "--seed", str(documents.length + documents.gap),
                 "--haystack", *(f"python:stdlib/{name}" for name in TRAINED_ON)]
            )
        )  # fmt: skip
    _check(
        preparation.main(
            ["--input", *(f"python:stdlib/{name}" for name in HELD_OUT), "--pattern", "*.py",
             *tokenizer, "--join", "--output", str(data / "held-out")]
        )
    )  # fmt: skip


def train(stage: Stage, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Run one phase; its result."""
    step = stage.batch * stage.length
    return launch(
        stage.name,
        **_from(before),
        contextLength=stage.length,
        tokens=stage.tokens // step * step,
        globalBatchTokens=step,
        microBatchSize=stage.micro_batch,
        rope=_ropes(stage.name),
        data=[{"source": each.name, "weight": 1} for each in stage.data],
        optimizer={
            "learningRate": stage.rate,
            "betas": (0.9, 0.98),
            "weightDecay": 0.01,
            "schedule": "WSD",
            "warmupTokens": 50 * step,
        },
    )


def ask(name: str, ended: Mapping[str, Any], length: int) -> dict[str, float]:
    """The figures of a phase's model at one length: one step at a rate of next to nothing."""
    result = launch(
        f"ask-{name}-{length}",
        **_from(ended),
        contextLength=length,
        tokens=length,
        globalBatchTokens=length,
        rope=_ropes(name),
        data=[{"source": "held-out", "weight": 1}],
        optimizer={"learningRate": 1e-12, "schedule": "Constant"},
        evaluation={"source": "held-out", "sequences": 4, "needles": NEEDLES},
    )
    figures: dict[str, float] = result["evaluation"]
    return figures


def launch(phase: str, **given: Any) -> dict[str, Any]:
    """Run a phase as a pod would; its result."""
    run = {
        "namespace": "bench", "curriculum": "needles", "curriculumUid": "uid", "phase": phase,
        "attempt": 1, "objective": "Pretrain", "tokenizer": "tokenizer",
        "model": {"config": MODEL}, "dataDir": str(WORK / "data"),
        "checkpointsDir": str(WORK / "checkpoints"), "checkpointPath": f"uid/{phase}",
        "precision": "FP32", "strategy": "DDP", "nodes": 1, "processesPerNode": 1,
        "acceleratorClass": "cpu", "allowedPrecisions": ["FP32"], **given,
    }  # fmt: skip
    path, message = WORK / f"{phase}.json", WORK / "message"
    path.write_text(json.dumps(run))
    with (WORK / f"{phase}.log").open("w") as log:
        subprocess.run(
            [sys.executable, "-m", "curriculum_trainer", "--run", str(path)],
            env={**os.environ, "TERMINATION_MESSAGE_PATH": str(message)},
            stdout=log,
            stderr=log,
            check=False,
        )
    result: dict[str, Any] = json.loads(message.read_text())
    if result["outcome"] != "Succeeded":
        sys.exit(f"phase {phase}: {result['outcome']}: {result['message']}")
    return result


def table(found: Mapping[str, Mapping[int, Mapping[str, float]]]) -> str:
    """Needles found by arm, length and depth."""
    lines = [f"{'':<18}{'length':>8}{'perplexity':>12}{'found':>7}   by depth, % of the context"]
    for arm, lengths in found.items():
        for length, figures in lengths.items():
            depths = {k.split("/")[1]: v for k, v in figures.items() if k.startswith("needle/")}
            by_depth = "  ".join(f"{depth}: {share:.2f}" for depth, share in depths.items())
            lines.append(
                f"{arm:<18}{length:>8}{figures['perplexity']:>12.1f}{figures['needle']:>7.2f}   "
                f"{by_depth}"
            )
    return "\n".join(lines)


def draw(found: Mapping[str, Mapping[int, Mapping[str, float]]], path: Path) -> None:
    """The share of needles found by length, one line per arm."""
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for arm, lengths in found.items():
        shares = [figures["needle"] for figures in lengths.values()]
        axes.plot(list(lengths), shares, marker="o", label=arm)
    axes.axhline(1 / (1 + needles.OTHERS), color="grey", linestyle=":", label="a guess")
    axes.set_xscale("log", base=2)
    axes.set_xticks(LENGTHS, [f"{length:,}" for length in LENGTHS])
    axes.set(xlabel="tokens of context", ylabel="needles found", ylim=(-0.05, 1.05))
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _from(before: Mapping[str, Any] | None) -> dict[str, str]:
    if before is None:
        return {}
    checkpoint = before["checkpoint"]
    return {"initFrom": checkpoint["uri"], "initDigest": checkpoint["digest"]}


def _ropes(name: str) -> list[dict[str, float]]:
    """What the phase and those before it set, in order."""
    return [{"theta": THETA[each]} for each in list(THETA)[: list(THETA).index(name) + 1]]


def _check(code: int) -> None:
    if code:
        sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.needle_extension", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--tokens",
        type=int,
        nargs=3,
        default=(4_000_000, 4_000_000, 2_000_000),
        metavar=("LEARN", "SHORT", "LONG"),
        help="tokens of the three phases (%(default)s)",
    )
    parser.add_argument("--rate", type=float, default=4e-3, help="learning rate (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
