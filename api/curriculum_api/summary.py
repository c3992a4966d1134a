"""What a curriculum came to: the document `result.json`, of a cluster's run or of a local one."""

import json
from typing import Any

from curriculum_api.wire import State, Strategy, Wire

SUMMARY_FILE = "result.json"


class CheckpointSummary(Wire):
    """A phase's last checkpoint; nulls where there is none."""

    step: int | None = None
    digest: str | None = None


class PhaseSummary(Wire):
    """One phase, over all its attempts."""

    name: str
    accelerator_class: str
    nodes: tuple[str, ...]
    """The nodes that it really ran on."""

    strategy: Strategy
    world_size: int = 0
    context_length: int
    tokens: int = 0
    """Tokens that the last checkpoint holds."""

    loss_first: float | None = None
    loss_last: float | None = None
    seconds: int | float = 0
    """Seconds in the training loop."""

    attempts: int = 0
    checkpoint: CheckpointSummary = CheckpointSummary()
    settings: dict[str, str] | None = None
    """What a sweep set in this phase; absent outside a sweep."""

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens over the seconds in the loop."""
        return self.tokens / self.seconds if self.seconds else None


class CurriculumSummary(Wire):
    """All phases in order; in a sweep, one phase once per combination, the best first."""

    state: State
    phases: tuple[PhaseSummary, ...]

    def document(self) -> dict[str, Any]:
        """As it is written."""
        document = self.model_dump(mode="json", by_alias=True)
        for phase in document["phases"]:
            if phase["settings"] is None:
                del phase["settings"]
        return document

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(self.document(), indent=2) + "\n"
