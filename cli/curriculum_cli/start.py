"""Where the program starts: `plan` goes past typer, whose import would double its time."""

import gc
import os
import sys
from pathlib import Path

# pydantic otherwise reads the metadata of everything that is installed, looking for plugins
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def main() -> None:
    """Run the program."""
    # kubectl runs `kubectl-curriculum`; its users type `kubectl curriculum`
    kubectl = Path(sys.argv[0]).name.startswith("kubectl-")
    program = "kubectl curriculum" if kubectl else "curriculum"
    if sys.argv[1:2] == ["plan"]:
        from curriculum_cli import plan

        gc.disable()  # it ends before there is anything worth collecting
        sys.exit(plan.main(sys.argv[2:], program=program))
    from curriculum_cli.main import app

    app(prog_name=program)


if __name__ == "__main__":
    main()
