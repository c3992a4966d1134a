"""Needle in a haystack: one fact somewhere in a long text, asked for at its end.

    hay ... Code stone 31 97 20 64. ... Code river 48 17 33 90. ... Code river| 48 17 33 90
            another                     the needle                  what is read| what is to follow

Other facts of the same form lie in the same haystack, so that finding a code is not enough.
Made of tokens, from text through the phase's own tokenizer, so any tokenizer will do: the pieces
of a fact are encoded alone, and its question repeats the very same tokens.

`python -m curriculum_trainer.needles` writes documents full of such facts and questions, for a
phase to be trained on: long-context recipes mix in a little retrieval (Nemotron's: 1 %).
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curriculum_trainer import failures, texts
from curriculum_trainer.data import IGNORED, Row
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.shards import ShardWriter
from curriculum_trainer.source import Kind
from curriculum_trainer.tokenizing import Encoder

OPENING = " Code"
CLOSING = "."

WORDS = (
    "river", "stone", "cloud", "garden", "window", "paper", "silver", "music",
    "winter", "bridge", "orange", "castle", "forest", "letter", "mirror", "ocean",
    "pencil", "rabbit", "shadow", "ticket", "valley", "wagon", "yellow", "anchor",
    "basket", "candle", "dragon", "engine", "feather", "guitar", "hammer", "island",
    "jacket", "kitchen", "ladder", "marble", "needle", "office", "planet", "quarter",
    "rocket", "saddle", "temple", "uncle", "velvet", "whistle", "button", "corner",
)  # fmt: skip

NUMBERS = tuple(str(number) for number in range(10, 100))
CODE = 4
"""Numbers of a code: one that is guessed is as good as never right, and a small vocabulary holds
each of them. After its first number a code also goes on as it did before, which is what teaches a
small model to look back at all."""

OTHERS = 3
"""Facts that are not asked for beside the one that is: RULER's multi-key test has as many."""

Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Fact:
    """A word and its code, as tokens."""

    question: tuple[int, ...]
    answer: tuple[int, ...]
    closing: tuple[int, ...]

    @property
    def stated(self) -> tuple[int, ...]:
        """The fact as it stands in a text."""
        return self.question + self.answer + self.closing


def facts(encode: Encode, *, seed: str, count: int) -> list[Fact]:
    """Facts about different words; the same for the same seed."""
    chance = random.Random(seed)
    codes = [chance.choices(NUMBERS, k=CODE) for _ in range(count)]
    return [
        Fact(
            question=(*encode(OPENING), *encode(f" {word}")),
            answer=tuple(token for number in code for token in encode(f" {number}")),
            closing=tuple(encode(CLOSING)),
        )
        for word, code in zip(chance.sample(WORDS, count), codes, strict=True)
    ]


def depths(count: int) -> list[float]:
    """Where the needles of a test lie: evenly from the start of the haystack, 0, to its end, 1."""
    return [number / (count - 1) if count > 1 else 0.5 for number in range(count)]


def row(
    text: NDArray[np.int64], encode: Encode, *, number: int, depth: float, seed: int, length: int
) -> Row:
    """Needle `number` of a test: one document of `length` tokens that predicts the answer only.

    The haystack is the start of `text`, which holds `length` tokens.
    """
    fact, *others = facts(encode, seed=f"{seed}/needle/{number}", count=1 + OTHERS)
    stated = sum(len(each.stated) for each in (fact, *others))
    room = length + 1 - stated - len(fact.question) - len(fact.answer)
    if room < 0:
        raise failures.user_error(
            f"evaluation.needles: a needle, {OTHERS} others and its question need "
            f"{length + 1 - room} tokens, the context has {length}: ask no needles in so short a "
            "phase"
        )
    chance = random.Random(f"{seed}/places/{number}")
    placed = [(round(depth * room), fact), *((chance.randint(0, room), each) for each in others)]
    parts: list[ArrayLike] = []
    start = 0
    for place, each in sorted(placed, key=itemgetter(0)):
        parts += [text[start:place], each.stated]
        start = place
    parts += [text[start:room], fact.question, fact.answer]
    tokens = np.concatenate(parts).astype(np.int64)
    targets = np.full(length, IGNORED, np.int64)
    targets[-len(fact.answer) :] = fact.answer
    return Row(tokens=tokens[:-1], targets=targets, lengths=(length,))


def documents(
    haystack: NDArray[np.int64],
    encode: Encode,
    *,
    length: int,
    count: int,
    gap: int,
    times: int,
    seed: int,
) -> Iterator[list[int]]:
    """Texts of `length` tokens in which each fact is stated once and then asked for.

    As many facts as come up `times` times each and leave `gap` tokens of haystack between, on
    average.
    """
    for number in range(count):
        chance = random.Random(f"{seed}/document/{number}")
        known = facts(encode, seed=f"{seed}/facts/{number}", count=len(WORDS))
        longest = max(len(fact.stated) for fact in known)
        pairs = min(len(known), length // (times * (longest + gap)))
        if not pairs:
            raise failures.user_error(
                f"--length {length} holds no fact and its question: give at least "
                f"{times * (longest + gap) + 1}"
            )
        # the first time that a fact comes up states it, every other asks for it
        order = times * known[:pairs]
        chance.shuffle(order)
        room = length - sum(len(fact.stated) for fact in order)
        places = sorted(chance.randint(0, room) for _ in order)
        text = _cut(haystack, start=number * length, count=room).tolist()
        made: list[int] = []
        for fact, start, end in zip(order, [0, *places], places, strict=False):
            made += [*text[start:end], *fact.stated]
        yield made + text[places[-1] :]


def _cut(haystack: NDArray[np.int64], *, start: int, count: int) -> NDArray[np.int64]:
    """Tokens of the haystack, which begins again where it ends."""
    places = np.arange(start, start + count) % len(haystack)
    return haystack[places]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one source of such documents; returns an exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.times < 2:
            raise failures.user_error(f"--times {options.times} asks for nothing: give 2 or more")
        for name, least in (("gap", 0), ("documents", 1), ("length", 1)):
            if getattr(options, name) < least:
                raise failures.user_error(
                    f"--{name} {getattr(options, name)} makes no document: give {least} or more"
                )
        encoder = Encoder(Path(options.tokenizer))
        files = texts.find(options.haystack, pattern=options.pattern)
        haystack = _read(files, encoder, tokens=options.length * options.documents)
        with ShardWriter(
            Path(options.output),
            kind=Kind.TEXT,
            vocab_size=encoder.vocab_size,
            tokenizer_sha256=encoder.sha256,
        ) as writer:
            for tokens in documents(
                haystack,
                # few pieces, said in every document again
                cache(encoder.encode),
                # the end token is part of a document
                length=options.length - 1,
                count=options.documents,
                gap=options.gap,
                times=options.times,
                seed=options.seed,
            ):
                writer.add([*tokens, encoder.end])
            index = writer.finish()
    except PhaseFailure as error:
        print(error.message, file=sys.stderr)
        return 1
    print(f"{options.output}: {index.tokens} tokens in {index.documents} documents")
    return 0


def _read(files: Sequence[Path], encoder: Encoder, *, tokens: int) -> NDArray[np.int64]:
    """At least so many tokens of the files, or all that they hold."""
    found: list[int] = []
    for path in files:
        found += encoder.encode(path.read_text(encoding="utf-8", errors="replace"))
        if len(found) >= tokens:
            break
    if not found:
        raise failures.data_error("the haystack is empty: name other text files")
    return np.asarray(found, np.int64)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m curriculum_trainer.needles",
        description="Write a source of documents that hold facts and ask for them.",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="the source's folder")
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="a tokenizer's folder")
    parser.add_argument(
        "--length", type=int, required=True, metavar="N", help="tokens of a document"
    )
    parser.add_argument("--documents", type=int, required=True, metavar="N", help="how many")
    parser.add_argument(
        "--haystack",
        nargs="+",
        default=[texts.STDLIB],
        metavar="PATH",
        help="text files and folders between the facts (%(default)s)",
    )
    parser.add_argument(
        "--gap",
        type=int,
        default=24,
        metavar="N",
        help="least tokens of haystack between facts, on average (%(default)s)",
    )
    parser.add_argument(
        "--times",
        type=int,
        default=2,
        metavar="N",
        help="how often each fact comes up, its statement included (%(default)s)",
    )
    parser.add_argument("--pattern", default="*.py", help="which files of a folder (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of facts and places")
    return parser


if __name__ == "__main__":
    sys.exit(main())
