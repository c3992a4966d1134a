"""Training processes that are forks share their launcher's memory, and go on sharing it."""

import gc
import os

from curriculum_trainer import processes


def test_in_a_fork_the_collector_leaves_alone_what_was_there() -> None:
    """Else its first collection would copy every page that holds an object."""

    def work() -> int:
        gc.collect()
        return 0 if gc.get_freeze_count() > 10_000 else 1

    assert processes.forked(work, os.environ).wait() == 0
    assert gc.get_freeze_count() == 0, "here everything is collected as before"
