"""A small data folder made of Python's own library."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from curriculum_trainer import prepare
from curriculum_trainer.shards import ShardWriter
from curriculum_trainer.source import Kind
from curriculum_trainer.tokenizing import Encoder

VOCAB = 300


def make_corpus(folder: Path) -> Path:
    """Sources "text", "long", "short" and "pairs", and their tokenizer."""
    text = ["--input", "python:stdlib/json"]
    tokenizer = ["--tokenizer", str(folder / "tokenizer")]
    for arguments in (
        [*text, "--tokenizer", f"train:{VOCAB}", "--output", str(folder / "text")],
        [*text, *tokenizer, "--join", "--output", str(folder / "long")],
        [*text, *tokenizer, "--pairs", "12:12", "--output", str(folder / "pairs")],
    ):
        assert prepare.main(arguments) == 0
    _short(folder)
    return folder


def _short(folder: Path) -> None:
    """Documents of 1 to 40 tokens: several in every sequence, some of a single token."""
    encoder = Encoder(folder / "tokenizer")
    chance = np.random.default_rng(7)
    documents = [
        [int(token) for token in chance.integers(0, VOCAB, size=length)]
        for length in chance.integers(1, 41, size=400)
    ]
    write_source(folder / "short", documents, tokenizer_sha256=encoder.sha256)


def write_source(
    folder: Path, documents: Iterable[Sequence[int]], *, tokenizer_sha256: str = ""
) -> None:
    """A source of text with exactly these documents."""
    with ShardWriter(
        folder, kind=Kind.TEXT, vocab_size=VOCAB, tokenizer_sha256=tokenizer_sha256
    ) as writer:
        for tokens in documents:
            writer.add(tokens)
        writer.finish()
