"""How long a phase's pods may take to end: to finish their step and save a checkpoint."""

from typing import Final

from curriculum_api.estimate import shape
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.v1alpha1.curriculum import Model

STEP_SECONDS: Final = 120
"""For the step that is under way, and whatever else an end takes."""

BYTES_PER_PARAMETER: Final = 12
"""A checkpoint holds weights and both Adam moments in FP32, whatever the optimizer keeps."""

UNKNOWN_SECONDS: Final = 600
"""For a model whose size its configuration does not tell."""

MAX_SECONDS: Final = 3600
"""No drain of a node waits longer, however large the model."""


def seconds(model: Model, kind: AcceleratorClassSpec) -> int:
    """Seconds between SIGTERM and SIGKILL."""
    size = _parameters(model)
    if size is None:
        return UNKNOWN_SECONDS
    saving = size * BYTES_PER_PARAMETER / (kind.checkpoint_bandwidth_mbps * 1e6)
    return min(MAX_SECONDS, STEP_SECONDS + round(saving))


def _parameters(model: Model) -> int | None:
    try:
        if model.preset is not None:
            return shape.of_preset(model.preset).parameters
        return shape.of_config(model.config or {}).parameters
    except ValueError:
        # a family that is trained all the same, or what the trainer will refuse in its own words
        return None
