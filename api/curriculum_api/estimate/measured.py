"""What training was measured to reach before, by class, shape of model and precision. Pure.

An efficiency is measured tokens a second over what was estimated for that very phase. What the
estimate has right, such as a longer context or more nodes, it keeps right; what it has wrong for a
class and a model is put right by the phases that went before.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from pydantic import ValidationError

from curriculum_api.estimate.shape import Shape
from curriculum_api.v1alpha1.accelerator_class import Measurement
from curriculum_api.wire import MAX_INT, Precision

MOST = 64
"""Measurements that a class keeps; the oldest give way."""

NEWS = 0.05
"""A change of efficiency below this share is none: every plan that rests on it would change."""

LEAST, LARGEST = 1e-9, 1e3
"""Efficiencies outside are nonsense: a CPU in a B200's place still reaches a millionth of it."""

WARM_SECONDS = 60.0
"""A phase that trained for less has measured its start."""


def model(shape: Shape) -> str:
    """A shape in few words: layers and width, and the parameters in billions."""
    return f"{shape.layers}x{shape.hidden} {shape.parameters / 1e9:.3g}B"


def read(status: Any) -> tuple[Measurement, ...]:
    """The measurements of an AcceleratorClass's status; what makes no sense is passed over."""
    given = status.get("measurements") if isinstance(status, Mapping) else None
    if not isinstance(given, Sequence) or isinstance(given, str):
        return ()
    found = {}
    for one in given:
        try:
            made = Measurement.model_validate(one)
        except ValidationError:
            continue
        if LEAST < float(made.efficiency) < LARGEST:
            found[made.model, made.precision] = made
    return tuple(found.values())[-MOST:]


def find(
    measurements: Sequence[Measurement], shape: Shape, precision: Precision
) -> Measurement | None:
    """What was measured of a shape in a precision."""
    asked = (model(shape), precision)
    return next((one for one in measurements if (one.model, one.precision) == asked), None)


def taken(
    shape: Shape,
    precision: Precision,
    *,
    estimated: float,
    tokens: int,
    seconds: float,
    gpus: int,
) -> Measurement | None:
    """What a finished phase measures, beside its estimated tokens a second; None where nothing."""
    if not isfinite(seconds) or seconds < WARM_SECONDS or estimated <= 0:
        return None
    # A container says these of itself, and may say anything: an integer of any length.
    if not (0 < tokens <= MAX_INT and 0 < gpus <= MAX_INT):
        return None
    reached = tokens / seconds
    if not LEAST < reached / estimated < LARGEST:
        return None
    return Measurement(
        model=model(shape),
        precision=precision,
        efficiency=f"{reached / estimated:.3g}",
        tokens_per_second=f"{reached / gpus:.4g}",
    )


def merged(known: Sequence[Measurement], new: Measurement) -> tuple[Measurement, ...]:
    """What is known once `new` was measured: it goes to the end, and replaces what it repeats."""
    same = (new.model, new.precision)
    before = next((one for one in known if (one.model, one.precision) == same), None)
    rest = [one for one in known if one is not before]
    if before is not None:
        efficiency = new.efficiency
        if abs(float(new.efficiency) / float(before.efficiency) - 1) < NEWS:
            efficiency = before.efficiency
        phases = min(before.phases + 1, MAX_INT)
        new = new.model_copy(update={"efficiency": efficiency, "phases": phases})
    return (*rest, new)[-MOST:]
