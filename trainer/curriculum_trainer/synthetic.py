"""A data folder of random tokens and phases over it, to try a machine with: one long document,
so that every row is one document of the whole context."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from curriculum_api.run import PhaseRun
from curriculum_api.wire import Precision
from curriculum_trainer import manifest
from curriculum_trainer.shards import ShardWriter
from curriculum_trainer.source import TOKENIZER_FILE, Kind

SOURCE = "noise"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the phases are; the model has heads for up to 8 sequence-parallel ranks, and
    blocks enough for NVFP4 to leave some of them to it."""

    model: dict[str, Any] = field(
        default_factory=lambda: {
            "model_type": "llama",
            "vocab_size": 32768,
            "hidden_size": 1536,
            "intermediate_size": 4096,
            "num_hidden_layers": 16,
            "num_attention_heads": 24,
            "num_key_value_heads": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
            "tie_word_embeddings": True,
        }
    )
    """0.45 billion parameters: 5.4 GB of checkpoint, and 7.3 GB of states on one device."""

    matmul_side: int = 8192
    reduce_bytes: int = 1 << 28
    context: int = 4096
    """Of the short phases, and the first of those that double."""

    longest: int = 1 << 20
    steps: int = 3
    step_seconds: float = 300.0
    """No longer context is tried where a step of it would take longer than this."""


def make_data(folder: Path, sizes: Sizes) -> None:
    """Write a tokenizer, which nothing is ever read with, and a source."""
    tokenizer = folder / "tokenizer" / TOKENIZER_FILE
    tokenizer.parent.mkdir(parents=True)
    words = {str(number): number for number in range(2)}
    tokenizer.write_text(json.dumps({"model": {"type": "WordLevel", "vocab": words}}))
    vocab = sizes.model["vocab_size"]
    # each row of a phase takes one token more than it has, the last one's target
    length = (sizes.steps + 1) * (sizes.longest + 1)
    with ShardWriter(
        folder / SOURCE,
        kind=Kind.TEXT,
        vocab_size=vocab,
        tokenizer_sha256=manifest.sha256(tokenizer),
    ) as writer:
        writer.add(np.random.default_rng(0).integers(0, vocab, size=length).tolist())
        writer.finish()


def phase(folder: Path, sizes: Sizes, *, devices: int, **changes: Any) -> PhaseRun:
    """A phase of a few steps of one row a device; `changes` are PhaseRun's fields."""
    values: dict[str, Any] = {
        "namespace": "self-test",
        "curriculum": "self-test",
        "curriculum_uid": "self-test",
        "phase": "self-test",
        "attempt": 1,
        "objective": "Pretrain",
        "model": {"config": sizes.model},
        "tokenizer": "tokenizer",
        "data_dir": str(folder),
        "checkpoints_dir": str(folder / "checkpoints"),
        "checkpoint_path": "self-test",
        "context_length": sizes.context,
        "precision": "BF16",
        "strategy": "DDP",
        "nodes": 1,
        "processes_per_node": devices,
        "accelerator_class": "this-machine",
        "allowed_precisions": list(Precision),
        "optimizer": {"learning_rate": 1e-4, "schedule": "Constant"},
        "data": [{"source": SOURCE, "weight": 1}],
    } | changes
    rows = devices // values.get("sequence_parallel", 1)
    values["global_batch_tokens"] = rows * values["context_length"]
    values["tokens"] = sizes.steps * values["global_batch_tokens"]
    return PhaseRun.model_validate(values)
