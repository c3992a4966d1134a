"""The model: a `transformers` decoder from a preset or a configuration, and its token scores.

Knows nothing of sharding. Weights are FP32 always; what computes in BF16 does so by autocast.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_outputs import MoeModelOutputWithPast

from curriculum_api.presets import PRESETS
from curriculum_api.run import PhaseRun
from curriculum_api.wire import Precision
from curriculum_trainer import drawing, dropout, failures, memory, pretrained, rope
from curriculum_trainer.sequence_parallel import Documents
from curriculum_trainer.source import TOKENIZER_FILE
from curriculum_trainer.tiling import Head
from curriculum_trainer.weights import Take

_CONVOLUTION = "conv"
"""A kind of block, of LFM2: a short causal convolution."""


class TokenScores(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A decoder that answers with the log-probability of every target, FP32; 0 where ignored."""

    def __init__(
        self, decoder: Any, *, precision: Precision, device_type: str, tile_tokens: int
    ) -> None:
        super().__init__()
        self.decoder = decoder
        decoder.set_output_embeddings(Head(decoder.get_output_embeddings(), tokens=tile_tokens))
        self._bf16 = precision is not Precision.FP32
        self._device_type = device_type
        self._convolves = _CONVOLUTION in _kinds(decoder.config)

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        targets: torch.Tensor,
        lengths: tuple[tuple[int, ...], ...],
        hits: bool = False,
    ) -> torch.Tensor:
        """Scores of shape [rows, part of the sequence].

        With `hits`, instead: 1 where the target is the likeliest token, else 0.
        """
        if self._convolves and any(len(documents) > 1 for documents in lengths):
            raise failures.data_error(
                "a row holds several documents, and this model's convolutions would see from one "
                "into the next: give documents as long as the context, or choose full attention"
            )
        # inside the module, because DeepSpeed switches off an autocast that encloses its engine
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._bf16):
            hidden = self.decoder.get_decoder()(
                input_ids=tokens,
                position_ids=positions,
                use_cache=False,
                documents=Documents(lengths),
            ).last_hidden_state
            return self.decoder.get_output_embeddings()(hidden, targets, hits)


def config(run: PhaseRun, say: Callable[[str], None] = lambda _: None) -> Any:
    """The model's configuration, with positions enough for this phase's context."""
    made = _config(run)
    for remark in dropout.switch_off(run, made):
        say(remark)
    rope.apply(run, made)
    if made.max_position_embeddings < run.context_length:
        made.max_position_embeddings = run.context_length
    _check(run, made)
    _check_head(made)
    memory.check(run)
    return made


def fill(run: PhaseRun, decoder: Any, take: Take) -> None:
    """Hand over the run's own weights where it has some, else those drawn from its seed."""
    if run.model.weights is not None:
        pretrained.read(decoder, Path(run.data_dir) / run.model.weights, take)
    else:
        drawing.draw(decoder, run.seed, take)


def import_decoder(run: PhaseRun) -> None:
    """Import the model's code, before processes are forked that all need it."""
    made = _config(run)
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(made)


def tokenizer_vocab(run: PhaseRun) -> int:
    """Tokens of the phase's tokenizer, read from its file without loading it."""
    path = Path(run.data_dir) / run.tokenizer / TOKENIZER_FILE
    try:
        document = json.loads(path.read_text())
        ids = [
            *document["model"]["vocab"].values(),
            *(token["id"] for token in document.get("added_tokens", [])),
        ]
    except FileNotFoundError:
        raise failures.data_error(
            f'phase "{run.phase}": no tokenizer at "{path}": prepare one first'
        ) from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise failures.data_error(f'tokenizer "{path}" cannot be read: {error!r}') from error
    return int(max(ids)) + 1


def _config(run: PhaseRun) -> Any:
    if run.model.weights is not None:
        folder = Path(run.data_dir) / run.model.weights
        if not (folder / "config.json").is_file():
            raise failures.data_error(f'model.weights: no "config.json" in "{folder}"')
        read = AutoConfig.from_pretrained(folder, local_files_only=True)
        if getattr(read, "quantization_config", None):
            raise failures.data_error(
                f'model.weights: "{folder}" holds quantised weights, which cannot be trained: take '
                "the model in BF16 or FP32"
            )
        return read
    values = run.model.config
    if run.model.preset is not None:
        values = PRESETS.get(run.model.preset)
        if values is None:
            raise failures.user_error(
                f'model.preset "{run.model.preset}" is not known: choose one of '
                f"{', '.join(sorted(PRESETS))} or give model.config"
            )
    if not values or "model_type" not in values:
        raise failures.user_error(
            'model.config has no "model_type": add it, for example "llama" or "qwen3"'
        )
    try:
        return AutoConfig.for_model(**values)
    except (ValueError, TypeError) as error:
        raise failures.user_error(f"model.config is refused: {error}") from error


def _kinds(made: Any) -> set[str]:
    """The kinds of the model's blocks, where it has several."""
    return set(getattr(made, "layer_types", None) or ())


def _check(run: PhaseRun, made: Any) -> None:
    vocab = tokenizer_vocab(run)
    if made.vocab_size < vocab:
        raise failures.user_error(
            f"model vocab_size {made.vocab_size} is smaller than the {vocab} tokens of tokenizer "
            f'"{run.tokenizer}": set vocab_size to {vocab} or more'
        )
    if made.num_attention_heads % run.sequence_parallel:
        raise failures.user_error(
            f'phase "{run.phase}": {made.num_attention_heads} attention heads are not divisible '
            f"by sequenceParallel {run.sequence_parallel}: change one of them"
        )
    kinds = _kinds(made)
    if _CONVOLUTION in kinds and run.sequence_parallel > 1:
        raise failures.user_error(
            f'phase "{run.phase}": model type "{made.model_type}" has convolutions, which do not '
            f"go with sequenceParallel {run.sequence_parallel}: set it to 1, or choose full "
            "attention"
        )
    if kinds - {"full_attention", _CONVOLUTION} or getattr(made, "attn_logit_softcapping", None):
        raise failures.user_error(
            f'model type "{made.model_type}" with a sliding window, linear attention or a soft '
            "cap on its logits is not trained here: choose full attention"
        )


def _check_head(made: Any) -> None:
    """Refuse a decoder that does more from its last block to its logits than one matrix.

    Scores are computed from the head alone, tile by tile; a scale or a soft cap around it would
    be lost without a word. Found out on tensors without storage: are they the very same objects.
    """
    with torch.device("meta"):
        try:
            decoder = AutoModelForCausalLM.from_config(made)
        except (ValueError, TypeError, AssertionError) as error:
            raise failures.user_error(f"model.config makes no decoder: {error}") from error
        hidden = torch.zeros(1, 1, made.hidden_size)
        head = decoder.get_output_embeddings()
        seen: list[torch.Tensor] = []
        if isinstance(head, torch.nn.Linear):
            head.register_forward_hook(lambda _module, given, out: seen.extend([*given, out]))
            base = decoder.get_decoder()
            base.forward = lambda *_, **__: MoeModelOutputWithPast(last_hidden_state=hidden)
            logits = decoder(input_ids=torch.zeros(1, 1, dtype=torch.long)).logits
            if len(seen) == 2 and seen[1] is logits and _root(seen[0]) is hidden:
                return
    raise failures.user_error(
        f'model type "{made.model_type}" changes its logits around the head (a scale or a soft '
        "cap), which is not trained here: choose another"
    )


def _root(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that this one is a view of, or itself."""
    return tensor if tensor._base is None else tensor._base
