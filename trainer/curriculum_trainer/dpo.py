"""DPO's loss, and the reference log-probabilities it compares with.

The reference is the model as the phase started. Its scores are computed once, for the pairs that
the phase will use, and kept beside the checkpoints: a resumed attempt must not compute them from
weights that have moved on.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional

from curriculum_trainer.data import DOCUMENTS_PER_PAIR, Pair

REFERENCE_FILE = "reference.safetensors"


class Reference:
    """Log-probabilities of both answers of known pairs under the phase's initial weights."""

    def __init__(self, pairs: Sequence[Pair], scores: torch.Tensor) -> None:
        self._scores = scores
        self._place = {pair: place for place, pair in enumerate(pairs)}

    def scores(self, pairs: Iterable[Pair]) -> torch.Tensor:
        """Scores of shape [pairs, 2]: chosen, rejected."""
        return self._scores[[self._place[pair] for pair in pairs]]


def pair_loss(
    policy: torch.Tensor, reference: torch.Tensor, *, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and reward margin of each pair.

    `policy` is [pairs, 3] (chosen, rejected, padding), `reference` [pairs, 2]; sums of
    log-probabilities over an answer's tokens.
    """
    assert policy.shape[1] == DOCUMENTS_PER_PAIR
    ratios = policy[:, :2] - reference
    margin = beta * (ratios[:, 0] - ratios[:, 1])
    return -functional.logsigmoid(margin), margin.detach()


def identity(*, init: str, pairs: Sequence[Pair], config: str) -> str:
    """What the reference scores depend on, as a digest: weights, data and the pairs' cut."""
    text = json.dumps([init, config, [(pair.source, pair.number) for pair in pairs]])
    return hashlib.sha256(text.encode()).hexdigest()


def load(folder: Path, pairs: Sequence[Pair], *, identity: str) -> Reference | None:
    """The kept reference, where it is of the same weights and pairs."""
    path = folder / REFERENCE_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("identity") != identity:
                return None
            return Reference(pairs, file.get_tensor("scores"))
    except (OSError, SafetensorError):
        return None


def save(folder: Path, scores: torch.Tensor, *, identity: str) -> None:
    """Keep the reference beside the checkpoints, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".tmp-{REFERENCE_FILE}"
    save_file({"scores": scores.contiguous()}, part, metadata={"identity": identity})
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(folder / REFERENCE_FILE)
