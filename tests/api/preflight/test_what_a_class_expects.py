"""Floors come from what a class says of itself, else from a share of what was measured."""

from typing import Any

import pytest

from curriculum_api import classes
from curriculum_api.preflight import floors
from curriculum_api.preflight.figures import Check, measured_as
from curriculum_api.v1alpha1.accelerator_class import AcceleratorClassSpec
from curriculum_api.wire import Precision


def gb10(**preflight: Any) -> AcceleratorClassSpec:
    spec = {**classes.CLASSES["gb10-sm121"], "image": "trainer", "preflight": preflight}
    return AcceleratorClassSpec.model_validate(spec)


def test_a_spark_is_held_to_seven_tenths_of_what_sparks_were_measured_to_do() -> None:
    found = floors.of_class(gb10(), Precision.BF16)
    assert found[Check.MATMUL] == pytest.approx(0.7 * 91)
    assert found[Check.LINK] == pytest.approx(0.7 * 20.9)
    assert found[Check.MEMORY] == pytest.approx(0.7 * 119)
    assert found[Check.WRITE] == found[Check.READ] == pytest.approx(0.7 * 0.8 * 1.25)
    assert (found[Check.LOSS], found[Check.ERRORS]) == (0.3, 0.01)


def test_what_spark_owners_complain_of_is_under_these_floors() -> None:
    """A CX-7 stuck at 13 Gb/s; 3 GB/s with an unpinned HCA; a clock of 500 of 2400 MHz."""
    found = floors.of_class(gb10(), Precision.BF16)
    assert found[Check.LINK] > 13 / 8
    assert found[Check.LINK] > 3
    assert found[Check.MATMUL] > 91 * 850 / 2400


def test_what_sound_sparks_were_seen_to_do_is_above_them() -> None:
    found = floors.of_class(gb10(), Precision.BF16)
    assert found[Check.LINK] < 18.9
    assert found[Check.MATMUL] < 91


@pytest.mark.parametrize("precision", [Precision.FP8, Precision.MXFP8, Precision.NVFP4])
def test_scaled_formats_are_measured_in_bf16(precision: Precision) -> None:
    assert measured_as(precision) is Precision.BF16
    assert floors.of_class(gb10(), precision) == floors.of_class(gb10(), Precision.BF16)


def test_fp32_has_a_floor_of_its_own() -> None:
    found = floors.of_class(gb10(), Precision.FP32)
    assert found[Check.MATMUL] == pytest.approx(0.7 * 0.75 * 31)


def test_what_the_class_says_goes_first_and_nothing_expects_nothing() -> None:
    found = floors.of_class(
        gb10(floors={"linkGBps": "10", "mtu": "9000", "writeGBps": "0", "lossPercent": "0"}),
        Precision.BF16,
    )
    assert (found[Check.LINK], found[Check.MTU]) == (10.0, 9000.0)
    assert Check.WRITE not in found
    assert Check.LOSS not in found
    assert Check.READ in found


def test_a_share_of_nothing_leaves_what_is_said() -> None:
    found = floors.of_class(gb10(share="0", floors={"linkGBps": "10"}), Precision.BF16)
    assert {Check.LINK: 10.0, Check.LOSS: 0.3, Check.ERRORS: 0.01} == found


def test_a_class_without_figures_is_held_to_its_peers() -> None:
    bare = gb10().model_copy(update={"performance": None, "unified_memory": False})
    assert {Check.LOSS: 0.3, Check.ERRORS: 0.01} == floors.of_class(bare, Precision.BF16)


def test_every_floor_of_a_class_is_a_check() -> None:
    """A floor that nothing reads would be a promise that nothing keeps."""
    names = {
        "matmulTFLOPS": Check.MATMUL, "clockMHz": Check.CLOCK, "memoryGiB": Check.MEMORY,
        "speedGbps": Check.SPEED, "mtu": Check.MTU, "errorsPercent": Check.ERRORS,
        "writeGBps": Check.WRITE, "readGBps": Check.READ, "lossPercent": Check.LOSS,
        "linkGBps": Check.LINK, "latencyMs": Check.LATENCY, "reduceGBps": Check.REDUCE,
    }  # fmt: skip
    assert set(names.values()) == set(Check)
    for name, check in names.items():
        assert floors.of_class(gb10(share="0", floors={name: "7"}), Precision.BF16)[check] == 7.0


def test_a_run_is_asked_for_it_only_where_the_class_is() -> None:
    asked = floors.for_run(gb10(rounds=2, seconds=60), Precision.BF16)
    assert asked is not None
    assert (asked.rounds, asked.seconds) == (2, 60)
    assert floors.for_run(gb10(enabled=False), Precision.BF16) is None
    none = gb10().model_copy(update={"preflight": None})
    assert floors.for_run(none, Precision.BF16) is None
    assert floors.of_class(none, Precision.BF16) == {}
