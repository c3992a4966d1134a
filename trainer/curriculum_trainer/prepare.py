"""`python -m curriculum_trainer.prepare`: texts to one source of token shards. No torch.

    text files -> tokens with an end token each -> shards            (pre-training, fine-tuning)
    text files -> one long document per folder -> shards  (--join)   (context extension)
    text files -> prompt, its true continuation, a wrong one (--pairs PROMPT:COMPLETION)   (DPO)

The same input, tokenizer and options give the same bytes.
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from curriculum_trainer import failures, texts, tokenizing
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.shards import ShardWriter
from curriculum_trainer.source import Index, Kind
from curriculum_trainer.tokenizing import Encoder

TRAIN_PREFIX = "train:"
TOKENIZER_FOLDER = "tokenizer"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare one source; returns an exit code."""
    options = _parser().parse_args(arguments)
    try:
        index = prepare(options)
    except PhaseFailure as error:
        print(error.message, file=sys.stderr)
        return 1
    kind = "pairs" if index.kind is Kind.PREFERENCE else "documents"
    count = index.documents // 3 if index.kind is Kind.PREFERENCE else index.documents
    print(f"{options.output}: {index.tokens} tokens in {count} {kind}")
    return 0


def prepare(options: argparse.Namespace) -> Index:
    """Write the source that the options describe."""
    files = texts.find(options.input, pattern=options.pattern)
    if not files:
        raise failures.data_error(
            f'no file matches "{options.pattern}" below {", ".join(options.input)}'
        )

    def documents() -> Iterator[str]:
        return texts.documents(files, join=options.join, limit_bytes=options.limit_bytes)

    encoder = _encoder(options.tokenizer, Path(options.output), documents())
    kind = Kind.PREFERENCE if options.pairs else Kind.TEXT
    with ShardWriter(
        Path(options.output),
        kind=kind,
        vocab_size=encoder.vocab_size,
        tokenizer_sha256=encoder.sha256,
    ) as writer:
        encoded = (encoder.encode(text) for text in documents())
        if options.pairs is None:
            for tokens in encoded:
                writer.add([*tokens, encoder.end])
        else:
            for triple in pairs(list(encoded), encoder, cut=options.pairs, seed=options.seed):
                for tokens in triple:
                    writer.add(tokens)
        return writer.finish()


def pairs(
    documents: Sequence[list[int]], encoder: Encoder, *, cut: tuple[int, int], seed: int
) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Prompt, chosen and rejected: the true continuation, and a wrong one of like length.

    In turn, the wrong one is a continuation from another place, or the true one with its lines
    in another order.
    """
    prompt_tokens, completion_tokens = cut
    chance = random.Random(seed)
    size = prompt_tokens + completion_tokens
    spots = [
        (number, start)
        for number, tokens in enumerate(documents)
        for start in range(0, len(tokens) - size + 1, size)
    ]
    if len(spots) < 2:
        raise failures.data_error(
            f"the input gives {len(spots)} pairs of {prompt_tokens} and {completion_tokens} "
            "tokens, at least 2 are needed: give more text or cut shorter"
        )
    for turn, (number, start) in enumerate(spots):
        middle = start + prompt_tokens
        chosen = documents[number][middle : start + size]
        rejected = chosen
        if turn % 2:
            lines = encoder.decode(chosen).splitlines(keepends=True)
            chance.shuffle(lines)
            rejected = encoder.encode("".join(lines))[:completion_tokens]
        while rejected == chosen:
            other, place = chance.choice(spots)
            rejected = documents[other][place + prompt_tokens : place + size]
            if (other, place) != (number, start) and rejected == chosen:
                break
        yield documents[number][start:middle], chosen, rejected


def _encoder(text: str, output: Path, documents: Iterator[str]) -> Encoder:
    if not text.startswith(TRAIN_PREFIX):
        return Encoder(Path(text))
    size = text.removeprefix(TRAIN_PREFIX)
    if not size.isdigit() or int(size) < 257:
        raise failures.data_error(
            f'--tokenizer "{text}": write {TRAIN_PREFIX}VOCAB with VOCAB at least 257'
        )
    folder = output.parent / TOKENIZER_FOLDER
    tokenizing.train(documents, vocab_size=int(size), folder=folder)
    return Encoder(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m curriculum_trainer.prepare",
        description="Turn text files into one source of token shards.",
    )
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help=f"files and folders; {texts.STDLIB}[/PACKAGE] is Python's own library",
    )
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="DIR|train:VOCAB",
        help="a tokenizer's folder, or train a BPE one on the input into tokenizer/ beside OUTPUT",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="the source's folder")
    parser.add_argument("--pattern", default="*.py", help="which files of a folder (%(default)s)")
    parser.add_argument(
        "--join", action="store_true", help="join each folder's files to one long document"
    )
    parser.add_argument(
        "--pairs",
        type=_cut,
        metavar="PROMPT:COMPLETION",
        help="make preference pairs of so many tokens",
    )
    parser.add_argument(
        "--limit-bytes", type=int, metavar="N", help="stop after about so much text"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the wrong continuations")
    return parser


def _cut(text: str) -> tuple[int, int]:
    prompt, _, completion = text.partition(":")
    if not (prompt.isdigit() and completion.isdigit() and int(prompt) and int(completion)):
        raise argparse.ArgumentTypeError(f'"{text}" is not PROMPT:COMPLETION, for example 64:64')
    return int(prompt), int(completion)


if __name__ == "__main__":
    sys.exit(main())
