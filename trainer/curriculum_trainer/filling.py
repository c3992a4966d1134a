"""From units of text to the shards of a source, batch by batch, saving on the way.

One thread encodes a batch, on all cores, while this one reads the next and writes the one before.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from curriculum_trainer import failures, reading, unfinished
from curriculum_trainer.reading import Fields
from curriculum_trainer.shards import ShardWriter
from curriculum_trainer.source import Kind
from curriculum_trainer.texts import Unit
from curriculum_trainer.tokenizing import Encoder
from curriculum_trainer.unfinished import Reached, State

BATCH_BYTES = 1 << 22
"""Text that is encoded at once."""

SAVE_SECONDS = 10.0
"""What a kill may cost; another value gives the same bytes."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is: `done` of `total`, which are bytes of input, or pairs."""

    stage: str
    done: int
    total: int
    text_bytes: int
    documents: int
    tokens: int


Tell = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Texts:
    """Some texts, and where the input goes on after them."""

    texts: list[str]
    reached: Reached
    done: int
    """Bytes of input read up to here."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some documents' tokens, and where the input goes on after them."""

    documents: Sequence[Sequence[int]]
    reached: Reached
    done: int


@dataclass(frozen=True, slots=True)
class Reading:
    """How the units are read."""

    fields: Fields
    limit_bytes: int | None
    skip_bad: bool


def read(units: Sequence[Unit], reached: Reached, how: Reading) -> Iterator[Texts]:
    """The texts after `reached`, until the limit; empty ones are left out."""
    taken, skipped = reached.text_bytes, reached.skipped
    before = sum(unit.num_bytes for unit in units[: reached.unit])
    batch: list[str] = []
    gathered = 0
    at, record = reached.at, reached.record
    for number in range(reached.unit, len(units)):
        for one in reading.records(units[number], at=at, number=record, fields=how.fields):
            if how.limit_bytes is not None and taken >= how.limit_bytes:
                yield Texts(batch, _reached(number, at, record, taken, skipped), before)
                return
            at, record = one.at, one.number
            if one.text is None:
                if not how.skip_bad:
                    raise failures.data_error(one.problem)
                skipped += 1
            elif one.text.strip():
                size = len(one.text.encode())
                batch.append(one.text)
                taken, gathered = taken + size, gathered + size
            if gathered >= BATCH_BYTES:
                yield Texts(batch, _reached(number, at, record, taken, skipped), before + one.read)
                batch, gathered = [], 0
        before += units[number].num_bytes
        at, record = 0, 0
    yield Texts(batch, _reached(len(units), 0, 0, taken, skipped), before)


def encoded(batches: Iterable[Texts], encoder: Encoder) -> Iterator[Batch]:
    """Each text's tokens with the end token, one batch ahead."""
    with ThreadPoolExecutor(1, "encode") as thread:
        ahead = None
        for texts in batches:
            submitted = thread.submit(encoder.encode_all, texts.texts)
            if ahead is not None:
                yield _batch(*ahead, end=encoder.end)
            ahead = (texts, submitted.result)
        if ahead is not None:
            yield _batch(*ahead, end=encoder.end)


def fill(
    folder: Path,
    state: State,
    batches: Iterable[Batch],
    encoder: Encoder,
    *,
    kind: Kind,
    stage: str,
    total: int,
    inputs: Callable[[int], str],
    tell: Tell,
) -> State:
    """Write all batches after those that `state` tells of, and the index; returns the last state.

    `inputs` gives the digest of the input up to and with a unit.
    """
    with ShardWriter(
        folder,
        kind=kind,
        vocab_size=encoder.vocab_size,
        tokenizer_sha256=encoder.sha256,
        written=state.written,
    ) as writer:
        saved_at = time.monotonic()
        for batch in batches:
            for tokens in batch.documents:
                writer.add(tokens)
            state = state.model_copy(
                update={"reached": batch.reached, "inputs": inputs(batch.reached.unit)}
            )
            tell(
                Progress(
                    stage=stage,
                    done=batch.done,
                    total=total,
                    text_bytes=batch.reached.text_bytes,
                    documents=writer.documents,
                    tokens=writer.tokens,
                )
            )
            if time.monotonic() - saved_at >= SAVE_SECONDS:
                state = state.model_copy(update={"written": writer.save()})
                unfinished.save(folder, state)
                saved_at = time.monotonic()
        if not writer.documents:
            raise failures.data_error(
                f'the input of "{folder}" holds no text: name files that are not empty'
            )
        writer.finish()
    state = state.model_copy(update={"done": True})
    unfinished.save(folder, state)
    return state


def _reached(unit: int, at: int, record: int, text_bytes: int, skipped: int) -> Reached:
    return Reached(unit=unit, at=at, record=record, text_bytes=text_bytes, skipped=skipped)


def _batch(texts: Texts, result: Callable[[], list[list[int]]], *, end: int) -> Batch:
    documents = result()
    for tokens in documents:
        tokens.append(end)
    return Batch(documents, texts.reached, texts.done)
