"""Makes `.venv` as `uv.lock` says, on a machine that has only Python 3.11 or newer.

Runs under the system's own Python before anything is installed: standard library only.
It must not touch anything but `.venv` and the user's cache folder.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

UV_VERSION = "0.13.9"
OLDEST_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"


class SetupError(Exception):
    """One line: what is missing, and what to do."""


def main() -> int:
    """Make the environment; 1 with one line where the machine lacks something."""
    try:
        make()
    except SetupError as error:
        print(f"environment: {error}", file=sys.stderr)
        return 1
    return 0


def make() -> None:
    """Install the locked dependencies, then leave the stamp that make(1) compares with."""
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(map(str, sys.version_info[:2]))
        raise SetupError(f"Python {found} is too old; install Python 3.11 or newer as python3")
    uv = pinned_uv()
    started = time.monotonic()
    say("installing what uv.lock names into .venv (5.5 GB; minutes when nothing is cached)")
    sync = [str(uv), "sync", "--frozen", "--all-extras", "--python", sys.executable]
    # The machine's own bundle, so that a TLS-inspecting proxy's certificate is trusted.
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(VENV)}
    if subprocess.run(sync, cwd=ROOT, env=environment, check=False).returncode != 0:
        raise SetupError("`uv sync --frozen --all-extras` failed; its output is above")
    link = VENV / "bin/uv"  # `uv sync` takes away what the lock does not name
    link.unlink(missing_ok=True)
    link.symlink_to(uv)
    (VENV / ".synced").write_text(f"uv {UV_VERSION}\n")
    say(f".venv is ready ({time.monotonic() - started:.0f} s)")


def pinned_uv() -> Path:
    """The pinned uv from the user's cache, fetched from PyPI where it is not there yet."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "curriculum-operator" / f"uv-{UV_VERSION}"
    uv = folder / "bin/uv"
    if uv.exists():
        return uv
    say(f"fetching uv {UV_VERSION}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    install = ["--quiet", "--no-deps", "--target", str(partial), f"uv=={UV_VERSION}"]
    if not any(_runs([*pip, "install", *install]) for pip in _pips(partial)):
        raise SetupError(
            f"cannot install uv {UV_VERSION}: neither `python3 -m pip` nor `python3 -m venv` "
            "works; install the packages python3-pip or python3-venv"
        )
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return uv


def _pips(partial: Path) -> list[list[str]]:
    """Ways to pip, by what this Python has: its own, else one in a throw-away environment."""
    if _runs([sys.executable, "-m", "pip", "--version"]):
        return [[sys.executable, "-m", "pip"]]
    venv = partial.with_name(f"{partial.name}-venv")
    if not _runs([sys.executable, "-c", "import ensurepip"]) and _can_apt():
        say("installing the Debian package python3-venv")
        _runs(["apt-get", "update", "--quiet"])
        _runs(["apt-get", "install", "--yes", "--no-install-recommends", "python3-venv"])
    if not _runs([sys.executable, "-m", "venv", "--clear", str(venv)]):
        return []
    return [[str(venv / "bin/python"), "-m", "pip"]]


def _can_apt() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _runs(command: list[str]) -> bool:
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env={**os.environ, **quiet}, capture_output=True, text=True, check=False
    )
    return done.returncode == 0


def say(text: str) -> None:
    """One line of what is going on."""
    print(f"environment: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
