"""A phase starts from any folder of `transformers` weights, and what it leaves is one again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from curriculum_api.run import PhaseRun
from curriculum_trainer import begin, collective, dropout, model
from curriculum_trainer.failures import PhaseFailure
from curriculum_trainer.result import Reached

from .phases import MODEL, SEQUENCE_PARALLEL, Phases

pytestmark = pytest.mark.trainer

Weights = dict[str, NDArray[np.float32]]

MIXTURE = {"num_local_experts": 3, "num_experts_per_tok": 2}

MODELS = [
    pytest.param("llama", True, {}, id="llama-tied"),
    pytest.param("llama", False, SEQUENCE_PARALLEL, id="llama-untied-ZeRO3-SP2"),
    pytest.param("qwen3", True, SEQUENCE_PARALLEL, id="qwen3-tied-ZeRO3-SP2"),
    pytest.param("qwen3", False, {}, id="qwen3-untied"),
    # its file has every expert by itself, the model all of them in one tensor
    pytest.param("mixtral", False, SEQUENCE_PARALLEL, id="mixtral-ZeRO3-SP2"),
]


def _save(config: dict[str, Any], folder: Path) -> Weights:
    """A model with weights of its own, saved as published ones are: BF16, in several files."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(11)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).bfloat16()
    made.save_pretrained(folder, max_shard_size="20KB")
    return {name: p.detach().float().numpy() for name, p in made.named_parameters()}


def _started(run: PhaseRun) -> Weights:
    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    work = begin.prepare(run, place, device, Reached())
    return {name: work.sharding.weight(name).clone().numpy() for name, _ in work.sharding.names()}


def _loaded(folder: Path) -> tuple[int, bool]:
    """New tokens that the checkpoint generates, and whether its head is its embedding."""
    import torch
    from transformers import AutoModelForCausalLM

    made, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    tokens = torch.ones(1, 3, dtype=torch.long)
    out = made.generate(tokens, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    tied = made.get_input_embeddings().weight is made.get_output_embeddings().weight
    return out.shape[1] - 3, tied


@pytest.mark.parametrize(("kind", "tied", "layout"), MODELS)
def test_local_weights_are_trained_and_saved_so_that_transformers_loads_them(
    phases: Phases, kind: str, *, tied: bool, layout: dict[str, Any]
) -> None:
    config = MODEL | MIXTURE | {"model_type": kind, "tie_word_embeddings": tied, "head_dim": 8}
    name = f"weights-{kind}-{tied}"
    folder = phases.data / name
    (saved,) = phases.together(phases.run(), lambda _run: _save(config, folder))
    assert len(list(folder.glob("*.safetensors"))) > 1
    run = phases.run("tuned", steps=1, model={"weights": name}, **layout)
    for started in phases.together(run, _started):
        assert started.keys() == saved.keys()
        for key, value in started.items():
            assert np.array_equal(value, saved[key]), key

    assert phases.launch(run).outcome == "Succeeded"
    ((new, is_tied),) = phases.together(phases.run(), lambda _: _loaded(phases.folder(run, 1)))
    assert (new, is_tied) == (4, tied)


def test_a_folder_that_lacks_weights_is_refused(phases: Phases) -> None:
    folder = phases.data / "weights-deeper"
    phases.together(phases.run(), lambda _run: _save(MODEL, folder))
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        text.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    ended = phases.launch(phases.run("deeper", model={"weights": folder.name}))

    assert ended.outcome == "DataError"
    assert "layers.2" in ended.message


def _rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The folder's weights in one file, with a change."""
    from safetensors.torch import load_file, save_file

    tensors: dict[str, Any] = {}
    for path in folder.glob("*.safetensors*"):
        if path.suffix == ".safetensors":
            tensors |= load_file(path)
        path.unlink()
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_tied_weight_is_read_by_either_of_its_names(phases: Phases) -> None:
    folder = phases.data / "weights-by-head"
    (saved,) = phases.together(phases.run(), lambda _run: _save(MODEL, folder))
    embedding = "model.embed_tokens.weight"

    def change(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors.pop(embedding)

    _rewritten(folder, change)
    (started,) = phases.together(phases.run(model={"weights": folder.name}), _started)
    assert np.array_equal(started[embedding], saved[embedding])


def test_two_values_for_one_tied_weight_are_refused(phases: Phases) -> None:
    folder = phases.data / "weights-two"
    phases.together(phases.run(), lambda _run: _save(MODEL, folder))

    def change(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2

    _rewritten(folder, change)
    ended = phases.launch(phases.run("two", model={"weights": folder.name}))
    assert ended.outcome == "DataError"
    assert "tie_word_embeddings" in ended.message


@pytest.mark.parametrize(("key", "value", "said"), [
    ("intermediate_size", 64, "has shape"),
    ("quantization_config", {"quant_method": "fp8"}, "quantised"),
])  # fmt: skip
def test_weights_that_are_no_plain_matrices_of_that_shape_are_refused(
    phases: Phases, key: str, value: Any, said: str
) -> None:
    folder = phases.data / f"weights-{key}"
    phases.together(phases.run(), lambda _run: _save(MODEL, folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    ended = phases.launch(phases.run(model={"weights": folder.name}))

    assert ended.outcome == "DataError"
    assert said in ended.message


def test_dropout_of_published_weights_is_set_to_0_and_said(
    phases: Phases, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = phases.data / "weights-dropout"
    config = MODEL | {"attention_dropout": 0.25}
    phases.together(phases.run(), lambda _run: _save(config, folder))
    run = phases.run("dry", steps=1, model={"weights": folder.name})
    assert phases.launch(run).outcome == "Succeeded"

    assert "attention_dropout 0.25 of the model's configuration is set to 0" in (
        capfd.readouterr().out
    )
    left = json.loads((phases.folder(run, 1) / "config.json").read_text())
    assert left["attention_dropout"] == 0


def test_dropout_that_a_model_type_has_by_default_is_off(phases: Phases) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {"model_type": "gpt2", "vocab_size": 300, "bos_token_id": 1, "eos_token_id": 1}
    made = AutoConfig.for_model(**config)
    assert dropout.switch_off(phases.run(model={"config": config}), made)
    with torch.device("meta"):
        modules = list(AutoModelForCausalLM.from_config(made).modules())
    chances = [m.p for m in modules if isinstance(m, torch.nn.Dropout)]

    assert chances
    assert not any(chances)


def test_dropout_that_is_asked_for_is_refused(phases: Phases) -> None:
    config = MODEL | {"attention_dropout": 0.1}
    with pytest.raises(PhaseFailure, match=r"model.config.attention_dropout 0.1") as refused:
        model.config(phases.run(model={"config": config}))

    assert refused.value.outcome == "UserError"


def test_weights_that_are_cut_are_refused_for_good(phases: Phases) -> None:
    folder = phases.data / "weights-cut"
    phases.together(phases.run(), lambda _run: _save(MODEL, folder))
    for path in folder.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-100])
    ended = phases.launch(phases.run("cut", model={"weights": folder.name}))

    assert ended.outcome == "DataError"
    assert "cannot be read" in ended.message


def test_pickled_weights_are_refused(phases: Phases) -> None:
    folder = phases.data / "weights-pickled"
    phases.together(phases.run(), lambda _run: _save(MODEL, folder))
    for path in folder.glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    ended = phases.launch(phases.run("pickled", model={"weights": folder.name}))

    assert ended.outcome == "DataError"
    assert "safetensors" in ended.message


@pytest.mark.parametrize("kind", ["gemma2", "granite", "cohere"])
def test_a_decoder_that_changes_its_logits_is_refused(phases: Phases, kind: str) -> None:
    """Its scores would be computed from the head alone, without the scale or the cap."""
    config = MODEL | {"model_type": kind, "eos_token_id": 1, "layer_types": ["full_attention"] * 2}
    with pytest.raises(PhaseFailure, match=f'"{kind}"'):
        model.config(phases.run(model={"config": config}))
