"""What this machine has, without torch: its import alone takes seconds."""

import os
import re
from importlib import util
from pathlib import Path

_DEVICES = Path("/dev")


def gpus(environment: dict[str, str] | None = None) -> int:
    """GPUs that a trainer started here would see."""
    chosen = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES")
    there = sum(1 for path in _DEVICES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))
    if chosen is None:
        return there
    return min(there, len([part for part in chosen.split(",") if part.strip() not in ("", "-1")]))


def check() -> None:
    """Raise ValueError where what the trainer needs is not installed."""
    if util.find_spec("torch") is None:
        raise ValueError("torch is not installed here: install curriculum-operator[trainer]")
