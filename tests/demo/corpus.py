"""The demo's data: Python's own library as token shards and preference pairs.

Made once for a state of the code that makes it. Must not know a cluster.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.demo.errors import DemoError

ROOT: Final = Path(__file__).resolve().parent.parent.parent
_TRAINER: Final = ROOT / "trainer/curriculum_trainer"
_MADE_BY: Final = (
    "filling", "pairs", "prepare", "reading", "shards", "source", "texts", "tokenizing",
    "unfinished",
)  # fmt: skip
_KEY: Final = "made-by"

# Packages with long docstrings and even style.
_WELL_WRITTEN: Final = tuple(
    f"python:stdlib/{package}"
    for package in ("asyncio", "email", "http", "json", "logging", "unittest")
)
# Packages that `short` has little of, each joined to one long document.
_LONG: Final = tuple(
    f"python:stdlib/{package}"
    for package in (
        "collections", "concurrent", "ctypes", "encodings", "html", "importlib",
        "multiprocessing", "pydoc_data", "re", "urllib", "wsgiref", "xml", "xmlrpc", "zoneinfo",
    )
)  # fmt: skip
# Packages of which `short`, which stops at its limit, and the others have nothing.
_HELD_OUT: Final = tuple(f"python:stdlib/{package}" for package in ("sqlite3", "tomllib", "venv"))
_SOURCES: Final[dict[str, tuple[str, ...]]] = {
    "short": ("--input", "python:stdlib", "--limit-bytes", "6000000"),
    "quality": ("--input", *_WELL_WRITTEN),
    "long": ("--input", *_LONG, "--join"),
    # Prompt and answer, chosen and rejected, fill 512 tokens.
    "preferences": ("--input", *_WELL_WRITTEN, "--pairs", "192:64"),
    "held-out": ("--input", *_HELD_OUT),
}


def prepare(folder: Path, say: Callable[[str], None]) -> None:
    """Fill ``folder`` with a tokenizer and a source of each kind."""
    key = _key()
    made_by = folder / _KEY
    if made_by.exists() and made_by.read_text() == key:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, options in _SOURCES.items():
        tokenizer = "train:2048" if name == "short" else str(folder / "tokenizer")
        say(_run("--output", str(folder / name), "--tokenizer", tokenizer, *options))
    made_by.write_text(key)


def _run(*options: str) -> str:
    command = [sys.executable, "-m", "curriculum_trainer.prepare", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()
    if done.returncode != 0:
        raise DemoError(f"cannot prepare data: {lines[-1]}")
    source, _, what = lines[-1].partition(": ")
    return f"data {Path(source).name!r}: {what}"


def _key() -> str:
    digest = hashlib.sha256(f"{sys.version}\n{_SOURCES}".encode())
    for module in _MADE_BY:
        digest.update((_TRAINER / f"{module}.py").read_bytes())
    return digest.hexdigest()
