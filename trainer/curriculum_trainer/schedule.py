"""The learning rate as a pure function of the tokens a phase has trained on."""

import math

from curriculum_api.run import RunOptimizer
from curriculum_api.wire import Schedule

DECAY_SHARE = 0.2
"""The last share of a WSD phase, over which the rate falls to zero."""

COSINE_FLOOR = 0.1
"""Where a cosine ends, as a share of the full rate."""


def learning_rate(
    optimizer: RunOptimizer, *, tokens_done: int, step_tokens: int, tokens: int
) -> float:
    """The rate of the step that starts after `tokens_done` of a phase of `tokens`.

    The step's own tokens count as done, so the first step of a warm-up is not wasted at zero
    and the last step of a decay is not spent at full rate.
    """
    seen = tokens_done + step_tokens
    if seen < optimizer.warmup_tokens:
        return optimizer.learning_rate * seen / optimizer.warmup_tokens
    return optimizer.learning_rate * _share(optimizer, seen=seen, tokens=tokens)


def _share(optimizer: RunOptimizer, *, seen: int, tokens: int) -> float:
    if optimizer.schedule is Schedule.CONSTANT:
        return 1.0
    if optimizer.schedule is Schedule.COSINE:
        span = max(1, tokens - optimizer.warmup_tokens)
        part = min(1.0, (seen - optimizer.warmup_tokens) / span)
        return COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi * part))
    decay_from = tokens * (1 - DECAY_SHARE)
    if seen <= decay_from:
        return 1.0
    # sqrt-shaped cool-down (Haegele et al. 2024, arXiv 2405.18392), never quite zero on the way
    return max(0.0, 1 - math.sqrt(min(1.0, (seen - decay_from) / (tokens * DECAY_SHARE))))
