"""A phase may stretch rotary positions; what it trained is what its checkpoint says."""

from pathlib import Path
from typing import Any

import pytest

from curriculum_api.run import PhaseRun
from curriculum_trainer import batch, begin, collective, model
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.result import Reached

from .phases import CONTEXT, MODEL, Phases

OLD = MODEL["max_position_embeddings"]
YARN = {"scaling": "YaRN", "factor": 4.0, "originalContextLength": OLD}

KINDS = [
    pytest.param([{"theta": 1e6}], id="theta"),
    pytest.param([{"scaling": "Linear", "factor": 2.0}], id="Linear"),
    pytest.param([YARN], id="YaRN"),
    pytest.param([YARN, {"theta": 1e6, "factor": 8.0}], id="YaRN-then-wider"),
]


def _scores(run: PhaseRun) -> tuple[Any, Any]:
    """The scores of the first row, by the trainer and by what `from_pretrained` makes of it."""
    import torch
    from transformers import AutoModelForCausalLM

    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    reached = Reached()
    work = begin.prepare(run, place, device, reached)
    assert reached.checkpoint is not None
    part = batch.micro_batches(work.mixture, work.layout, step=0, device="cpu")[0]
    loaded = AutoModelForCausalLM.from_pretrained(
        Path(run.checkpoints_dir) / reached.checkpoint.uri
    )
    with torch.no_grad():
        ours = work.sharding.scores(*part.inputs)
        logits = loaded(input_ids=part.tokens, position_ids=part.positions).logits
        theirs = logits.log_softmax(-1).gather(-1, part.targets.clamp(min=0)[..., None])[..., 0]
    counted = part.targets >= 0
    return (ours * counted).numpy(), (theirs * counted).numpy()


@pytest.mark.trainer
@pytest.mark.parametrize("rope", KINDS)
def test_from_pretrained_scores_beyond_the_old_context_as_the_trainer_does(
    phases: Phases, rope: list[dict[str, Any]]
) -> None:
    """Rows of one document, twice as long as what the model was made for."""
    data = [{"source": "long", "weight": 1}]
    run = phases.run("stretched", steps=1, rope=rope, data=data)
    assert phases.launch(run).outcome == "Succeeded"
    ((ours, theirs),) = phases.together(run, _scores)

    assert ours[:, OLD:].any()
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("rope", KINDS)
def test_the_configuration_says_what_was_set(phases: Phases, rope: list[dict[str, Any]]) -> None:
    plain = model.config(phases.run())
    made = model.config(phases.run(rope=rope))

    assert made.max_position_embeddings == CONTEXT
    assert plain.rope_parameters["rope_type"] == "default"
    assert made.rope_parameters != plain.rope_parameters
    last = rope[-1]
    assert made.rope_parameters["rope_theta"] == last.get("theta", 10000.0)
    assert made.rope_parameters.get("factor") == last.get("factor")


def test_scaling_none_goes_back_and_keeps_the_base(phases: Phases) -> None:
    rope = [{"theta": 5e5}, YARN, {"scaling": "None"}]
    made = model.config(phases.run(rope=rope))

    assert made.rope_parameters == {"rope_type": "default", "rope_theta": 5e5}


def test_yarn_over_a_published_scaling_takes_its_original_context(phases: Phases) -> None:
    rope = [{"scaling": "YaRN", "factor": 64.0}]
    made = model.config(phases.run(model={"preset": "llama-3.1-8b"}, rope=rope))

    assert made.rope_parameters == {
        "rope_type": "yarn",
        "rope_theta": 500000.0,
        "factor": 64.0,
        "original_max_position_embeddings": 8192,
    }


GPT2 = {"model_type": "gpt2", "vocab_size": 300, "n_embd": 32, "n_layer": 1, "n_head": 4}


@pytest.mark.parametrize(
    ("rope", "changes", "said"),
    [
        pytest.param([{"theta": 0.5}], {}, "theta 0.5 is not a base", id="theta"),
        pytest.param([{"factor": 2.0}], {}, "factor 2 has no scaling", id="factor-alone"),
        pytest.param([{"scaling": "Linear"}], {}, "Linear needs factor", id="no-factor"),
        pytest.param([YARN | {"factor": 0.5}], {}, "factor 0.5 would shrink", id="shrink"),
        pytest.param(
            [{"scaling": "YaRN", "factor": 2.0}], {}, "needs originalContextLength", id="no-origin"
        ),
        pytest.param([YARN | {"factor": 1.5}], {}, "raise factor to 2", id="too-short"),
        pytest.param(
            [{"theta": 1e6}], {"model": {"config": GPT2}}, '"gpt2" has no rotary', id="gpt2"
        ),
    ],
)
def test_nonsense_is_refused_in_one_line(
    phases: Phases, rope: list[dict[str, Any]], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(PhaseFailure, match=said) as refused:
        model.config(phases.run(rope=rope, **changes))

    assert refused.value.outcome == "UserError"
    assert "\n" not in refused.value.message


def test_a_resumed_attempt_must_have_the_same_positions(phases: Phases) -> None:
    assert begin.config_digest(phases.run()) != begin.config_digest(phases.run(rope=[YARN]))
