"""What the tree must and must not hold."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_folder_operator_does_not_hide_the_standard_librarys_module() -> None:
    """With an __init__.py it would: `python -m` puts the root first."""
    assert not (ROOT / "operator/__init__.py").exists()

    code = "import operator; print(operator.__file__)"
    seen = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert Path(seen.stdout.strip()).parent != ROOT / "operator"


def test_no_file_of_code_is_longer_than_four_hundred_lines() -> None:
    folders = ("api", "operator", "trainer", "cli", "tests", "tools")
    long = {
        str(file.relative_to(ROOT)): count
        for folder in folders
        for file in (ROOT / folder).rglob("*.py")
        if (count := len(file.read_text().splitlines())) > 400
    }

    assert long == {}
