"""`python -m tests.helm.lint`: lint the chart and render it, with the test cluster's own helm.

Where helm was not built yet, the templates are checked by `make test`, which builds it.
"""

import subprocess
import sys
from pathlib import Path

from tests.cluster import gobuild

CHART = Path(__file__).resolve().parents[2] / "helm/curriculum-operator"


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    """Run helm; its output is kept."""
    command = [str(gobuild.binary("helm")), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def main() -> int:
    """Lint strictly, render once."""
    if not gobuild.binary("helm").exists():
        print("chart: helm is not built yet; the chart's tests build it and check the chart")
        return 0
    for words in (("lint", "--strict", str(CHART)), ("template", "check", str(CHART))):
        done = helm(*words)
        if done.returncode != 0:
            print(f"{done.stdout}{done.stderr}", file=sys.stderr)
            return 1
    print("chart: linted and rendered")
    return 0


if __name__ == "__main__":
    sys.exit(main())
