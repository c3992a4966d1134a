"""What AdamW's two moments take in FP32, 8 and 4 bits, and what is learnt with each, on the CPU.

    python -m benchmarks.moments

Memory is the sum over the tensors that the optimizer holds, by storage, for one matrix of 8,192 x
4,096. The loss is that of a small Llama over made-up text, the same for all three.
"""

import argparse
import statistics
import time
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from curriculum_api.run import RunOptimizer
from curriculum_api.wire import OptimizerName
from curriculum_trainer.optimizer import MOMENTS, Adam, Fragment, adamw

ROWS, COLUMNS = 8192, 4096
STEPS: Final = 200
AVERAGED: Final = 20
SMALL: Final = LlamaConfig(
    vocab_size=256, hidden_size=128, intermediate_size=384, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
)  # fmt: skip


def main() -> None:
    """Measure each of the three and print the table."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.moments", description=(__doc__ or "").splitlines()[0]
    ).parse_args()
    torch.set_num_threads(1)
    table = Table(
        "optimizer", "bytes a parameter", "of FP32", "CPU-seconds a step", "loss", "to FP32's"
    )
    full: tuple[float, float] | None = None
    for name in OptimizerName:
        taken, seconds, loss = num_bytes(name), step_seconds(name), final_loss(name)
        full = full or (taken, loss)
        table.add_row(
            name,
            f"{taken:.3f}",
            f"{100 * taken / full[0]:.1f} %",
            f"{seconds:.2f} s",
            f"{loss:.3f}",
            f"{100 * (loss / full[1] - 1):+.2f} %",
        )
    Console().print(table)


def num_bytes(name: OptimizerName) -> float:
    """Bytes of both moments for each parameter of the matrix."""
    layer = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    made = _optimizer(layer, name)
    states = made._inner.state if hasattr(made, "_inner") else made.state  # type: ignore[attr-defined]
    parts = [part for state in states.values() for key in MOMENTS for part in _parts(state[key])]
    return float(sum(part.untyped_storage().nbytes() for part in parts) / layer.weight.numel())


def step_seconds(name: OptimizerName) -> float:
    """Median CPU-seconds of an update of the matrix, uncompiled as it is on the CPU."""
    layer = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    made = _optimizer(layer, name)
    layer.weight.grad = torch.randn_like(layer.weight)
    taken = []
    for _ in range(4):
        began = time.process_time()
        made.step()
        taken.append(time.process_time() - began)
    return statistics.median(taken[1:])


def final_loss(name: OptimizerName) -> float:
    """Mean loss of the last steps on a text in which one of 16 tokens follows each."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(SMALL)
    made = _optimizer(model, name)
    chance = torch.Generator().manual_seed(1)
    follows = torch.randint(0, 256, (256, 16), generator=chance)
    losses = []
    for _ in range(STEPS):
        tokens = _text(follows, chance)
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        made.step()
        made.zero_grad()
        losses.append(float(loss.detach()))
    return statistics.fmean(losses[-AVERAGED:])


def _text(follows: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    tokens = torch.randint(0, 256, (8, 64), generator=chance)
    choices = torch.randint(0, follows.shape[1], (8, 64), generator=chance)
    for place in range(1, 64):
        tokens[:, place] = follows[tokens[:, place - 1], choices[:, place]]
    return tokens


def _optimizer(module: torch.nn.Module, name: OptimizerName) -> Adam:
    made = adamw(module, RunOptimizer(name=name, learning_rate=3e-3))
    for number, group in enumerate(made.param_groups):
        group["lr"] = 3e-3
        for tensor in group["params"]:
            made.hold(tensor, [Fragment(0, tensor.numel())], group=number)
    return made


def _parts(state: Any) -> list[torch.Tensor]:
    names = getattr(state, "tensor_attrs", None)
    return [getattr(state, name) for name in names] if names else [state]


if __name__ == "__main__":
    main()
