"""Numbers that make no sense, in a class or in a trainer's account, stop nobody's curriculum."""

from typing import Any

import pytest

from curriculum_api.classes import CLASSES
from curriculum_api.v1alpha1.status import CurriculumStatus

from .builders import Scene, accelerator, curriculum, phase, result, scene

BIG = {"preset": "llama-3.1-8b"}


def rated(rate: str) -> Scene:
    """A curriculum on a class all of whose rates are one number."""
    link = {"peakGBps": rate, "source": "x"}
    matmul = [{"precision": "BF16", "peakTFLOPS": rate, "source": "x"}]
    rates = {"matmul": matmul, "memory": link, "fabric": link, "storage": link}
    classes = {"gb10-sm121": accelerator(performance=rates)}
    return scene(curriculum(phases=(phase(),)), classes=classes)


@pytest.mark.parametrize("rate", ["1e-250", "1e28", "1e250"])
def test_no_rate_of_a_class_makes_a_status_that_cannot_be_written(rate: str) -> None:
    for here in (rated(rate), rated(rate).started().formed()):
        status = here.step().status
        assert CurriculumStatus.model_validate(status.model_dump(by_alias=True)) == status


def test_what_does_not_fit_is_held_although_its_time_cannot_be_computed() -> None:
    matmul = [{"precision": "BF16", "peakTFLOPS": "1e-320", "source": "x"}]
    kind = accelerator(performance={**CLASSES["gb10-sm121"]["performance"], "matmul": matmul})
    here = scene(curriculum(phases=(phase(),), model=BIG), classes={"gb10-sm121": kind})
    step = here.step()
    assert step.rule == "infeasible"
    assert "too large or too small" in step.status.plan.phases[0].notes[0]


@pytest.mark.parametrize("field", ["tokens", "world_size"])
def test_an_account_beyond_any_number_measures_nothing(field: str) -> None:
    here = rated("100").started().formed()
    given: dict[str, Any] = {"seconds": 100.0, "tokens": 65536, "world_size": 2, field: 10**400}
    account = result(**given)
    ended = here.pod_ends("master-0", code=0, message=account).pod_ends("worker-0", code=0)
    step = ended.job_succeeds().step()
    assert (step.rule, step.measured) == ("ended_well", None)
