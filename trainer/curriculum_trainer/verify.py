"""`python -m curriculum_trainer.verify`: is the phase's last checkpoint whole, and at its end.

The work of the `-verify` Job, which opens the next phase. Imports no torch, so it runs on any
small node with pydantic alone. It answers in the termination message and writes nothing else.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from curriculum_api.run import EXIT_CODES, RUN_PATH, PhaseResult, PhaseRun
from curriculum_api.wire import Outcome
from curriculum_trainer import failures, leaving, manifest, result
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.manifest import BadCheckpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify one phase; returns the exit code of the outcome."""
    parser = argparse.ArgumentParser(prog="python -m curriculum_trainer.verify")
    parser.add_argument("--run", type=Path, default=Path(RUN_PATH))
    path = parser.parse_args(arguments).run
    try:
        run = PhaseRun.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        print(f'run "{path}" cannot be read: {error}', file=sys.stderr)
        return EXIT_CODES[Outcome.USER_ERROR]
    ended = verified(run)
    result.write_termination_message(ended)
    print(result.to_json(ended), flush=True)
    return EXIT_CODES[ended.outcome]


def verified(run: PhaseRun) -> PhaseResult:
    """Succeeded with the checkpoint's reference, or what is wrong with which file."""
    reached = result.on_disk(run)
    try:
        folder = _last(run)
        head = manifest.verify(folder)
    except BadCheckpoint as error:
        return result.build(
            run, reached, outcome=Outcome.CHECKPOINT_ERROR, message=f"checkpoint: {error}"
        )
    except PhaseFailure as error:
        return result.build(run, reached, outcome=error.outcome, message=error.message)
    reached.resume(head, result.ref(run, folder, head))
    result.recall(run, reached)
    ended = result.build(run, reached, outcome=Outcome.SUCCEEDED, message="")
    return ended.model_copy(update={"world_size": head.source.world_size})


def _last(run: PhaseRun) -> Path:
    """The newest checkpoint's folder, which must be of the phase's end."""
    found = next(manifest.steps(result.phase_folder(run)), None)
    if found is None:
        raise failures.checkpoint_error(
            f'phase "{run.phase}" has no checkpoint in "{result.phase_folder(run)}"'
        )
    _, folder = found
    head = manifest.read(folder)
    if head.phase != run.phase:
        raise failures.checkpoint_error(
            f'"{folder}" is of phase "{head.phase}", not of "{run.phase}"'
        )
    if head.tokens < run.tokens:
        raise failures.checkpoint_error(
            f'"{folder}" holds {head.tokens} of the {run.tokens} tokens of phase "{run.phase}": '
            "the phase has not reached its end"
        )
    return folder


if __name__ == "__main__":
    leaving.on_sigterm()
    sys.exit(main())
