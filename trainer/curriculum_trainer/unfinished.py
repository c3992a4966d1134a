"""How far a source's preparation has come, kept beside it so that a killed one goes on.

    prepare.json    the options, how far the input is read, what of the output is on the disk

It is replaced as a whole after the shards were flushed, so what it says of them is always true.
It stays when the source is finished, and says how the source was made.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from curriculum_api.wire import Wire
from curriculum_trainer import failures, shards
from curriculum_trainer.shards import Written

STATE_FILE = "prepare.json"


class Reached(Wire):
    """How far the input is read."""

    unit: int = 0
    """Which of the input's units is being read."""

    at: int = 0
    """Where in it the next record starts, as its reader counts."""

    record: int = 0
    """Records of it that are done."""

    text_bytes: int = 0
    """Bytes of text taken, over all units."""

    skipped: int = 0
    """Bad records left out, over all units."""


class State(Wire):
    """What `prepare.json` says."""

    version: int = 1
    options: dict[str, str]
    tokenizer_sha256: str = ""
    inputs: str = ""
    """Digest of the names, sizes and times of the units up to the one being read."""

    reached: Reached = Reached()
    written: Written = Written()
    done: bool = False


def load(folder: Path, options: Mapping[str, str]) -> State | None:
    """What an earlier run with the same options left; refuses one with others."""
    path = folder / STATE_FILE
    try:
        state = State.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, ValidationError) as error:
        raise failures.data_error(
            f'"{path}" cannot be read: {failures.one_line(str(error), 200)}; start with --fresh'
        ) from error
    for name in sorted({*state.options, *options}):
        then, now = state.options.get(name, ""), options.get(name, "")
        if then != now:
            raise failures.user_error(
                f'"{folder}" was begun with --{name} "{then}", now it is "{now}": give the same '
                "options, another --output, or start anew with --fresh"
            )
    return state


def save(folder: Path, state: State) -> None:
    """Replace what is kept."""
    shards.write_json(folder / STATE_FILE, state)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other preparations out of the folder; the lock goes with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise failures.user_error(
            f'another "prepare" is at work in "{folder}": wait for it, or name another --output'
        ) from None
    finally:
        os.close(handle)
