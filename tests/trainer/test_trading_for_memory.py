"""What is traded for memory changes no gradient, under any sharding."""

from typing import Any

import pytest

from curriculum_trainer import zero

from .gradients import assert_same_gradients
from .phases import MODEL, SEQUENCE_PARALLEL, Phases

pytestmark = pytest.mark.trainer

TILES = {"tile_tokens": 24, "tiled_mlp": True}
"""Three tiles of a row of 64, the last one shorter; two of half a row."""

LAYOUTS = [
    pytest.param({"processes_per_node": 2}, id="DDP"),
    pytest.param({"processes_per_node": 2, "strategy": "ZeRO1"}, id="ZeRO1"),
    pytest.param({"processes_per_node": 2, "strategy": "ZeRO2"}, id="ZeRO2"),
    pytest.param({"processes_per_node": 2, "strategy": "ZeRO3"}, id="ZeRO3"),
    pytest.param({"processes_per_node": 2, "sequence_parallel": 2}, id="DDP-SP2"),
    pytest.param(SEQUENCE_PARALLEL, id="ZeRO3-SP2"),
]


@pytest.fixture(autouse=True)
def _nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ZeRO-3 partition these small parameters too: it would keep them whole on every rank."""
    settings = zero._settings

    def partitioned(*given: Any, **named: Any) -> dict[str, Any]:
        made = settings(*given, **named)
        made["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return made

    monkeypatch.setattr(zero, "_settings", partitioned)


def _both(phases: Phases, *, tied: bool = True, **changes: Any) -> None:
    common: dict[str, Any] = {
        "model": {"config": MODEL | {"tie_word_embeddings": tied}},
        "data": [{"source": "short", "weight": 1}],
        "micro_batch_size": 1,
    }
    alone = phases.run("alone", **common)
    assert_same_gradients(phases, alone, phases.run("spread", **common, **changes))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_tiles_change_no_gradient(phases: Phases, layout: dict[str, Any], *, tied: bool) -> None:
    """Two passes per step and rank, so that gradients are added up as well."""
    _both(phases, tied=tied, memory=TILES, **layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_computing_blocks_again_changes_no_gradient(phases: Phases, layout: dict[str, Any]) -> None:
    _both(phases, memory=TILES | {"activation_checkpointing": True}, **layout)
