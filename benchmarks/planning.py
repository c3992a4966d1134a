"""How long planning takes: seconds of `curriculum plan` with its start, and of `--optimize`.

Run with bytecode caches written (no PYTHONDONTWRITEBYTECODE) on a machine that does nothing else.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ARTICLE = Path(__file__).parent.parent / "examples" / "article-8b.yaml"
RUNS = 9


def seconds(*arguments: str) -> list[float]:
    """Wall times of some runs, after one that fills the caches."""
    command = [sys.executable, "-m", "curriculum_cli.start", *arguments]
    taken = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - start)
    return taken[1:]


def main() -> int:
    """Print the medians."""
    for name, arguments in (
        ("plan", ("plan", "-f", str(ARTICLE))),
        ("plan --optimize cost", ("plan", "-f", str(ARTICLE), "--optimize", "cost")),
    ):
        taken = seconds(*arguments)
        print(
            f"{name:22} median {statistics.median(taken):.2f} s,"
            f" {min(taken):.2f} to {max(taken):.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
