"""Rotary positions of a phase: base and scaling, written over the model's configuration.

What is written is what `transformers` reads, so the exported `config.json` carries it and
`from_pretrained` computes the same angles. Nothing else of the configuration is touched.
"""

from typing import Any

from curriculum_api.run import PhaseRun, RunRope
from curriculum_api.wire import RopeScaling
from curriculum_trainer import failures

_TYPES = {RopeScaling.LINEAR: "linear", RopeScaling.YARN: "yarn"}
_KEPT = ("rope_theta", "partial_rotary_factor")
"""What another scaling leaves as it was."""

_ORIGINAL = "original_max_position_embeddings"


def apply(run: PhaseRun, config: Any) -> None:
    """Write the phase's rotary positions into `config`; each entry goes over those before it."""
    if not run.rope:
        return
    where = f'phase "{run.phase}": rope'
    found = getattr(config, "rope_parameters", None)
    if not found or "rope_theta" not in found:
        raise failures.user_error(
            f'{where}: model type "{config.model_type}" has no rotary positions of one kind for '
            "all blocks: remove rope"
        )
    parameters = dict(found)
    for entry in run.rope:
        parameters = _changed(parameters, entry, where=where)
    if parameters["rope_type"] == "yarn":
        original = parameters[_ORIGINAL]
        reach = int(parameters["factor"] * original)
        if reach < run.context_length:
            raise failures.user_error(
                f"{where}: factor {parameters['factor']:g} times originalContextLength {original} "
                f"is {reach}, less than contextLength {run.context_length}: raise factor to "
                f"{run.context_length / original:g}"
            )
        if hasattr(config, _ORIGINAL):
            # where a model type keeps it outside as well, transformers reads that one
            setattr(config, _ORIGINAL, original)
    config.rope_parameters = parameters


def _changed(old: dict[str, Any], entry: RunRope, *, where: str) -> dict[str, Any]:
    new = dict(old)
    if entry.theta is not None:
        if entry.theta <= 1:
            raise failures.user_error(
                f"{where}.theta {entry.theta:g} is not a base of frequencies: set it above 1, "
                "for example 500000"
            )
        new["rope_theta"] = entry.theta
    kind = new["rope_type"]
    if entry.scaling is not None:
        kind = _TYPES.get(entry.scaling, "default")
        if kind != old["rope_type"]:
            new = {key: new[key] for key in _KEPT if key in new}
            new["rope_type"] = kind
    if entry.factor is not None:
        if kind == "default":
            raise failures.user_error(
                f"{where}.factor {entry.factor:g} has no scaling: set scaling to Linear or YaRN, "
                "or remove factor"
            )
        if entry.factor < 1:
            raise failures.user_error(
                f"{where}.factor {entry.factor:g} would shrink the context: it is the new context "
                "over the old, set it to 1 or more"
            )
        new["factor"] = entry.factor
        # a model's own attention factor is of its own scaling factor
        new.pop("attention_factor", None)
    if kind in _TYPES.values() and "factor" not in new:
        raise failures.user_error(
            f"{where}.scaling {entry.scaling} needs factor, the new context over the old: add it"
        )
    if kind == "yarn":
        original = entry.original_context_length or old.get(_ORIGINAL)
        if original is None:
            raise failures.user_error(
                f"{where}.scaling YaRN needs originalContextLength, the context that the model "
                "was trained at: add it"
            )
        new[_ORIGINAL] = original
    return new
