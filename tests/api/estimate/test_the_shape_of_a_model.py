"""A shape read without `transformers` has the very parameters that `transformers` makes."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from curriculum_api.estimate import shape
from curriculum_api.presets import PRESETS

# torchao's own, where it is compiled anew
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")

SMALL = {
    "vocab_size": 320,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "pad_token_id": None,
}

CASES = [
    *(pytest.param(config, id=name) for name, config in PRESETS.items()),
    *(pytest.param({"model_type": name}, id=f"{name}, as it is") for name in shape.FAMILIES),
    *(
        pytest.param(
            {"model_type": name, **SMALL, "tie_word_embeddings": tied}, id=f"{name} {tied}"
        )
        for name in shape.FAMILIES
        for tied in (True, False)
    ),
    pytest.param(
        {"model_type": "llama", **SMALL, "attention_bias": True, "mlp_bias": True},
        id="llama with biases",
    ),
    pytest.param(
        {"model_type": "qwen3", **SMALL, "head_dim": 64, "attention_bias": True},
        id="qwen3 with heads wider than its hidden size",
    ),
]


@pytest.mark.parametrize("config", CASES)
def test_parameters_are_counted_as_transformers_makes_them(config: dict[str, Any]) -> None:
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    named = dict(made.named_parameters())
    found = shape.of_config(config)

    assert found.parameters == sum(p.numel() for p in named.values())
    block = [p for name, p in named.items() if name.startswith("model.layers.0.")]
    assert found.block == sum(p.numel() for p in block)
    assert found.block_matrices == sum(p.numel() for p in block if p.ndim == 2)


def test_an_unknown_family_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r'model_type "mamba" is not known: choose one of granite'):
        shape.of_config({"model_type": "mamba"})


def test_an_unknown_preset_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r'"llama-9" is not known: choose one of llama-3\.1-8b'):
        shape.of_preset("llama-9")


def test_heads_that_do_not_divide_are_refused_with_the_figures() -> None:
    with pytest.raises(ValueError, match="num_key_value_heads 5 does not divide"):
        shape.of_config({"model_type": "llama", "num_key_value_heads": 5})
