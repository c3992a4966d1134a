"""The torch environment as a folder: 5.4 GB that pods mount, instead of a layer of each image.

It is what the Dockerfile's target `trainer` installs, from the same lock. It lies in the user's
cache under a digest of what is in it, so that it is made once per lock. Must not know a cluster.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PYTHON: Final = "3.11"
"""The Python of the images; compiled wheels are of one version."""

_COMPLETE: Final = ".complete"


class TrainerEnvironmentError(Exception):
    """The environment could not be made; one line."""


def folder(say: Callable[[str], None]) -> Path:
    """The folder, complete; minutes when nothing is cached, at once when it is there."""
    requirements = _uv("export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", *_EXTRA)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(f"{PYTHON}\n{requirements}".encode()).hexdigest()[:12]
    place = Path(home) / "curriculum-operator" / "trainer-env" / name
    if (place / _COMPLETE).exists():
        return place
    say("making the torch environment for the trainer's pods (5.4 GB)")
    started = time.monotonic()
    for older in place.parent.glob("*"):
        shutil.rmtree(older)
    partial = place.with_name(f".{name}")
    partial.mkdir(parents=True)
    listed = partial / "requirements.txt"
    listed.write_text(requirements)
    # Compiled now: pods could not keep what they compile, and would do it at every start.
    _uv(
        *("pip", "install", "--quiet", "--python", sys.executable, "--python-version", PYTHON),
        *("--compile-bytecode", "--no-deps", "--target", str(partial)),
        *("--requirements", str(listed)),
    )
    (partial / _COMPLETE).touch()
    partial.replace(place)
    say(f"the torch environment is ready ({time.monotonic() - started:.0f} s)")
    return place


_EXTRA: Final = ("--extra", "trainer")


def _uv(*words: str) -> str:
    uv = ROOT / ".venv/bin/uv"
    done = subprocess.run([str(uv), *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr.strip() or "no output").splitlines()
        raise TrainerEnvironmentError(f"`uv {words[0]} {words[1]}` failed: {lines[-1]}")
    return done.stdout
