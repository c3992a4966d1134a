"""The rows of `benchmarks/published.py`, which is no package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PATH = Path(__file__).parents[3] / "benchmarks" / "published.py"


def load() -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("published", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["published"] = module
    spec.loader.exec_module(module)
    return module
