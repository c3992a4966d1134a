"""`python -m curriculum_trainer.prepare`: texts to one source of token shards. No torch.

    texts -> tokens with an end token each -> shards                 (pre-training, fine-tuning)
    text files -> one long document per folder -> shards (--join)    (context extension)
    texts -> tokens -> prompt, its true continuation, a wrong one (--pairs PROMPT:COMPLETION)

The same input, tokenizer and options give the same bytes, however often it is killed and started
again on the way: what is done is kept in the output's folder (`unfinished`).
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from curriculum_trainer import failures, filling, pairs, reading, texts, tokenizing, unfinished
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.filling import Batch, Progress, Reading, Tell
from curriculum_trainer.pairs import Spots
from curriculum_trainer.reading import Fields
from curriculum_trainer.source import INDEX_FILE, TOKENIZER_FILE, Index, Kind, Source, read_index
from curriculum_trainer.texts import Digest, Unit
from curriculum_trainer.tokenizing import Encoder
from curriculum_trainer.unfinished import STATE_FILE, Reached, State

TRAIN_PREFIX = "train:"
TOKENIZER_FOLDER = "tokenizer"
DOCUMENTS_FOLDER = ".documents"
"""Below the output, until the pairs are made: the texts that they are cut from."""

BATCH_PAIRS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to prepare, and how."""

    inputs: tuple[str, ...]
    tokenizer: str
    output: Path
    pattern: str = "*.py"
    field: str = "text"
    column: str = "text"
    join: bool = False
    pairs: tuple[int, int] | None = None
    limit_bytes: int | None = None
    seed: int = 0
    skip_bad: bool = False
    fresh: bool = False

    @property
    def identity(self) -> dict[str, str]:
        """What a run that goes on must share with the one before, as it is spelled."""
        return {
            "input": " ".join(self.inputs),
            "tokenizer": self.tokenizer,
            "pattern": self.pattern,
            "field": self.field,
            "column": self.column,
            "join": "yes" if self.join else "",
            "pairs": ":".join(map(str, self.pairs)) if self.pairs else "",
            "limit-bytes": "" if self.limit_bytes is None else str(self.limit_bytes),
            "seed": str(self.seed),
        }

    @property
    def reading(self) -> Reading:
        """How the input is read."""
        return Reading(Fields(self.field, self.column), self.limit_bytes, self.skip_bad)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A finished source, and how many bad records it does without."""

    index: Index
    skipped: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare one source; returns an exit code."""
    given = vars(_parser().parse_args(arguments))
    try:
        given["inputs"], given["pairs"] = tuple(given["inputs"]), parse_pairs(given["pairs"])
        options = Options(**given)
        print(summary(options, prepare(options)))
    except PhaseFailure as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


def prepare(options: Options, tell: Tell = lambda _: None) -> Prepared:
    """Write the source that the options describe, or what is still missing of it."""
    with unfinished.held(options.output):
        units = _units(options)
        state = _begin(options)
        if state.done:
            _check_tokenizer(options, state, tokenizing.digest(_tokenizer(options)))
        else:
            state, encoder = _encoder(options, state, units, tell)
            make = _tokenize if options.pairs is None else _pair
            state = make(options, options.output, state, units, encoder, tell)
        _check_inputs(options, state, units)
        shutil.rmtree(options.output / DOCUMENTS_FOLDER, ignore_errors=True)
        return Prepared(read_index(options.output), state.reached.skipped)


def summary(options: Options, made: Prepared) -> str:
    """What was made, in one line."""
    index = made.index
    paired = index.kind is Kind.PREFERENCE
    count, things = (index.documents // 3, "pairs") if paired else (index.documents, "documents")
    without = f", {made.skipped} bad records left out" if made.skipped else ""
    return f"{options.output}: {index.tokens} tokens in {count} {things}{without}"


def _units(options: Options) -> list[Unit]:
    files = texts.find(options.inputs, pattern=options.pattern)
    if options.join:
        for path in filter(reading.holds_documents, files):
            raise failures.user_error(
                f'--join joins text files, "{path}" holds documents of its own: leave --join out'
            )
    return texts.units(files, join=options.join)


def _begin(options: Options) -> State:
    """What an earlier run left, or a claim on the folder."""
    folder = options.output
    training = options.tokenizer.startswith(TRAIN_PREFIX)
    tokenizer = _tokenizer(options)
    if options.fresh:
        for name in (INDEX_FILE, STATE_FILE):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / DOCUMENTS_FOLDER, ignore_errors=True)
    elif (kept := unfinished.load(folder, options.identity)) is not None:
        return kept
    elif (folder / INDEX_FILE).exists():
        raise failures.user_error(
            f'"{folder}" holds a source already: name another --output, or replace it with --fresh'
        )
    elif training and (tokenizer / TOKENIZER_FILE).exists():
        raise failures.user_error(
            f'"{tokenizer}" holds a tokenizer already, and other sources may need it: use it with '
            f"--tokenizer {tokenizer}, or replace it with --fresh"
        )
    state = State(options=options.identity)
    unfinished.save(folder, state)
    return state


def _encoder(
    options: Options, state: State, units: Sequence[Unit], tell: Tell
) -> tuple[State, Encoder]:
    """The tokenizer, trained if that is asked for and was not done; the same as before a kill."""
    folder = _tokenizer(options)
    if options.tokenizer.startswith(TRAIN_PREFIX) and not state.tokenizer_sha256:
        size = _vocabulary(options.tokenizer)
        tokenizing.train(_all_texts(options, units, tell), vocab_size=size, folder=folder)
    encoder = Encoder(folder)
    _check_tokenizer(options, state, encoder.sha256)
    state = state.model_copy(update={"tokenizer_sha256": encoder.sha256})
    unfinished.save(options.output, state)
    return state, encoder


def _tokenizer(options: Options) -> Path:
    """The folder of the tokenizer that is named, or trained."""
    if options.tokenizer.startswith(TRAIN_PREFIX):
        return options.output.parent / TOKENIZER_FOLDER
    return Path(options.tokenizer)


def _check_tokenizer(options: Options, state: State, digest: str) -> None:
    if state.tokenizer_sha256 not in ("", digest):
        raise failures.user_error(
            f'"{options.output}" was begun with another tokenizer than "{_tokenizer(options)}" '
            "holds now: restore it, or start anew with --fresh"
        )


def _vocabulary(text: str) -> int:
    size = text.removeprefix(TRAIN_PREFIX)
    if not size.isdigit() or int(size) < 257:
        raise failures.user_error(
            f'--tokenizer "{text}": write {TRAIN_PREFIX}VOCAB with VOCAB at least 257'
        )
    return int(size)


def _all_texts(options: Options, units: Sequence[Unit], tell: Tell) -> Iterator[str]:
    total = _total(options, units)
    documents = 0
    for batch in filling.read(units, Reached(), options.reading):
        yield from batch.texts
        documents += len(batch.texts)
        done = batch.reached.text_bytes
        tell(Progress("training tokenizer", batch.done, total, done, documents, 0))


def _tokenize(
    options: Options,
    folder: Path,
    state: State,
    units: Sequence[Unit],
    encoder: Encoder,
    tell: Tell,
) -> State:
    _check_inputs(options, state, units)
    batches = filling.read(units, state.reached, options.reading)
    return filling.fill(
        folder,
        state,
        filling.encoded(batches, encoder),
        encoder,
        kind=Kind.TEXT,
        stage="tokenizing",
        total=_total(options, units),
        inputs=Digest(units).up_to,
        tell=tell,
    )


def _pair(
    options: Options,
    folder: Path,
    state: State,
    units: Sequence[Unit],
    encoder: Encoder,
    tell: Tell,
) -> State:
    assert options.pairs is not None
    below = folder / DOCUMENTS_FOLDER
    begun = State(options=state.options, tokenizer_sha256=state.tokenizer_sha256)
    texts_state = unfinished.load(below, options.identity) or begun
    if not texts_state.done:
        below.mkdir(exist_ok=True)
        texts_state = _tokenize(options, below, texts_state, units, encoder, tell)
    _check_inputs(options, texts_state, units)
    spots = Spots(Source(below, below.name), cut=options.pairs)

    def batches() -> Iterator[Batch]:
        for first in range(state.reached.record, len(spots), BATCH_PAIRS):
            last = min(first + BATCH_PAIRS, len(spots))
            made = pairs.triples(spots, encoder, seed=options.seed, first=first, last=last)
            documents = [tokens for triple in made for tokens in triple]
            # of the input everything is read; what counts on is the pair
            yield Batch(documents, texts_state.reached.model_copy(update={"record": last}), last)

    return filling.fill(
        folder,
        state,
        batches(),
        encoder,
        kind=Kind.PREFERENCE,
        stage="pairing",
        total=len(spots),
        inputs=lambda _: texts_state.inputs,
        tell=tell,
    )


def _check_inputs(options: Options, state: State, units: Sequence[Unit]) -> None:
    if state.inputs and state.inputs != Digest(units).up_to(state.reached.unit):
        raise failures.user_error(
            f'"{options.output}": files that were read for it are others now, or changed since: '
            "restore them, or start anew with --fresh"
        )


def _total(options: Options, units: Sequence[Unit]) -> int:
    total = sum(unit.num_bytes for unit in units)
    return total if options.limit_bytes is None else min(total, options.limit_bytes)


def parse_pairs(text: str | None) -> tuple[int, int] | None:
    """Tokens of a prompt and of a completion, as --pairs spells them."""
    if text is None:
        return None
    prompt, _, completion = text.partition(":")
    if not (prompt.isdigit() and completion.isdigit() and int(prompt) and int(completion)):
        raise failures.user_error(f'--pairs "{text}": write PROMPT:COMPLETION, for example 64:64')
    return int(prompt), int(completion)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m curriculum_trainer.prepare",
        description="Turn text, JSON lines and Parquet into one source of token shards.",
    )
    parser.add_argument(
        "--input",
        dest="inputs",
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
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="the source's folder"
    )
    parser.add_argument("--pattern", default="*.py", help="which files of a folder (%(default)s)")
    parser.add_argument("--field", default="text", help="of JSON lines (%(default)s)")
    parser.add_argument("--column", default="text", help="of Parquet (%(default)s)")
    parser.add_argument(
        "--join", action="store_true", help="join each folder's files to one long document"
    )
    parser.add_argument(
        "--pairs", metavar="PROMPT:COMPLETION", help="make preference pairs of so many tokens"
    )
    parser.add_argument(
        "--limit-bytes", type=int, metavar="N", help="stop after about so much text"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the wrong continuations")
    parser.add_argument("--skip-bad", action="store_true", help="leave bad records out")
    parser.add_argument("--fresh", action="store_true", help="replace what the output holds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
