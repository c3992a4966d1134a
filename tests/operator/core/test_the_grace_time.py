"""Pods get as long to end as their checkpoint takes to write."""

from typing import Any

import pytest

from curriculum_api.run import PhaseRun
from curriculum_api.v1alpha1.curriculum import Model
from curriculum_operator.build import grace, run

from .builders import accelerator, curriculum, phase, scene

HUGE = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 16384,
    "intermediate_size": 53248,
    "num_hidden_layers": 126,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
}


@pytest.mark.parametrize(
    ("model", "bandwidth", "seconds"),
    [
        pytest.param({"preset": "tiny-1m"}, {}, 120, id="a-small-model-has-the-floor"),
        pytest.param({"preset": "llama-3.1-8b"}, {}, 120 + 193, id="8b-at-half-a-gb-a-second"),
        pytest.param(
            {"preset": "llama-3.1-8b"},
            {"checkpointBandwidthMBps": 2000},
            120 + 48,
            id="faster-storage-of-the-class",
        ),
        pytest.param({"config": HUGE}, {}, 3600, id="never-more-than-an-hour"),
        pytest.param({"config": {"model_type": "mamba"}}, {}, 600, id="a-size-that-is-not-known"),
        pytest.param({"preset": "nothing"}, {}, 600, id="a-preset-that-is-not-known"),
    ],
)  # fmt: skip
def test_the_grace_time_follows_from_the_checkpoints_size(
    model: dict[str, Any], bandwidth: dict[str, Any], seconds: int
) -> None:
    """12 bytes a parameter over the storage's speed, on top of 120 s for the step."""
    kind = accelerator(**bandwidth).spec

    assert seconds == grace.seconds(Model.model_validate(model), kind)


def test_the_pod_and_the_run_say_the_same() -> None:
    """The trainer ends what is overdue before the kubelet would."""
    small = phase(optimizer={"name": "AdamW8bit", "learningRate": "3e-4"})
    given = curriculum(model={"preset": "llama-3.1-8b"}, phases=(small,))
    config_map, job = scene(given).step().creates
    told = PhaseRun.model_validate_json(config_map["data"][run.RUN_FILE])
    replicas = job["spec"]["pytorchReplicaSpecs"].values()

    assert 313 == told.grace_seconds
    assert [313, 313] == [
        each["template"]["spec"]["terminationGracePeriodSeconds"] for each in replicas
    ]
