"""Dropout, which is not trained here: what a phase draws at random must be the same after a resume.

The state of a generator on every process is not part of a checkpoint, and belongs to one layout.
"""

from collections.abc import Iterator
from typing import Any

from curriculum_api.run import PhaseRun
from curriculum_trainer import failures

WORDS = ("drop", "jitter_noise")
"""What the names of such settings contain, over all model types of `transformers`."""


def switch_off(run: PhaseRun, config: Any) -> list[str]:
    """Set every dropout of `config` to 0, and say which; refuse one that the phase asks for.

    Many a model type has some by default, and published weights carry what they were made with.
    """
    found = dict(_found(config))
    for name in sorted(found.keys() & (run.model.config or {}).keys()):
        raise failures.user_error(
            f'phase "{run.phase}": model.config.{name} {found[name]:g}: dropout is not trained '
            "here, because a resumed phase would not draw the same: set it to 0"
        )
    for name in found:
        setattr(config, name, 0.0)
    return [
        f"{name} {value:g} of the model's configuration is set to 0: dropout is not trained here"
        for name, value in found.items()
    ]


def _found(config: Any) -> Iterator[tuple[str, float]]:
    for name, value in config.to_dict().items():
        chance = isinstance(value, float) or type(value) is int
        if chance and value > 0 and any(word in name for word in WORDS):
            yield name, value
