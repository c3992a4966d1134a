"""The entry of every training pod: `python -m curriculum_trainer [--run FILE]`."""

import sys

from curriculum_trainer import leaving


def main() -> int:
    """Run one attempt of one phase; returns the exit code of its outcome."""
    leaving.on_sigterm()
    # only now: to import it takes seconds on a busy machine
    from curriculum_trainer import entry

    return entry.main()


if __name__ == "__main__":
    sys.exit(main())
