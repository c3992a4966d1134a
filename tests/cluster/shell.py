"""Runs a program and turns its failure into one line; must not know what the programs do."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .errors import ClusterError


def run(
    *command: str | Path,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run to the end, output captured; ``env`` adds to this process's own.

    Raises ClusterError with the last line of stderr when ``check`` and the status is not 0.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        raise ClusterError(f"`{_short(words)}` did not end within {timeout:.0f} s") from expired
    if check and done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise ClusterError(f"`{_short(words)}` failed ({done.returncode}): {lines[-1]}")
    return done


def _short(words: list[str]) -> str:
    return " ".join([Path(words[0]).name, *words[1:]])[:200]
