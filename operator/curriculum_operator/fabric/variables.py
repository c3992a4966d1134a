"""Whose a variable is: the operator's, the profile's, or anybody's; and what two say of one."""

from collections.abc import Iterable, Mapping

RESERVED = frozenset(
    {
        "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
        "PATH", "PYTHONPATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "HOME",
    }
)  # fmt: skip
"""Rendezvous belongs to the training-operator and the trainer, the process's own to the image."""

RESERVED_PREFIXES = ("PET_", "KUBEFLOW_TRAINER_", "KUBERNETES_")

NEVER_SET = {
    "NCCL_IB_GID_INDEX": "the index differs between nodes and drifts; NCCL finds it by itself",
}

_WITHOUT_RDMA = (("NCCL_IB_DISABLE", "1"), ("NCCL_NET", "Socket"))
"""What takes RDMA away from a pod that has it."""

_TOLD = "NCCL_DEBUG"
"""What NCCL says of itself is nobody's setting."""


def reserved(names: Iterable[str]) -> str | None:
    """The first variable that only the operator may set."""
    for name in names:
        if name in RESERVED or name.startswith(RESERVED_PREFIXES):
            return name
    return None


def conflicts(
    given: Iterable[tuple[str, str]],
    *,
    profile: str,
    environment: Mapping[str, str],
    refuses: Mapping[str, str],
    rdma: bool,
) -> Iterable[str]:
    """What variables of a class or a phase say against the profile, each in one line."""
    at = f'fabric profile "{profile}"'
    for name, value in given:
        if name in NEVER_SET:
            yield f'env "{name}" must not be set: {NEVER_SET[name]}'
        elif name.startswith("NCCL_") and not value:
            yield f'env "{name}" is empty, which NCCL reads as 0: remove it'
        elif rdma and (name, value) in _WITHOUT_RDMA:
            yield (
                f'env "{name}" is "{value}", but {at} gives the pods RDMA devices: remove it, or'
                " take the profile's RDMA resource away"
            )
        elif environment.get(name, value) != value:
            yield (
                f'env "{name}" is "{value}", but {at} sets "{environment[name]}": remove it, and'
                " set the values of the class's or the pool's fabric"
            )
        elif name not in environment and not name.startswith(_TOLD):
            why = _why(name, refuses)
            if why:
                yield f'env "{name}" does not go with {at}: {why}'


def _why(name: str, refuses: Mapping[str, str]) -> str | None:
    """The reason of the first pattern that the name fits; a pattern may end in `*`."""
    for pattern, why in refuses.items():
        if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])):
            return why
    return None
