"""How this process runs: read once from the environment, constant from then on."""

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from curriculum_operator.observe import Policy

PREFIX = "CURRICULUM_"


@dataclass(frozen=True, slots=True)
class Settings:
    """Durations are in seconds."""

    namespaces: tuple[str, ...] = ()
    """Namespaces that are served; all where empty."""

    lease_name: str = "curriculum-operator"
    lease_namespace: str = "default"
    identity: str = "curriculum-operator"
    """Unique among all processes that want the Lease."""

    fabric_profiles: str = ""
    """ConfigMap in the Lease's namespace with the site's fabric profiles; none where empty."""

    progress_host: str = "0.0.0.0"
    progress_port: int = 8090
    """Trainers report here; `/readyz` is here too."""

    liveness_port: int = 8080
    """`/healthz` is here."""

    workers: int = 8
    """Curricula that are worked on at once."""

    node_workers: int = 16
    """Nodes that are labelled at once."""

    progress_seconds: float = 15
    """Progress alone is written to a status at most this often."""

    silence_seconds: float = 300
    """A watch without a sign of life for this long makes the process unhealthy."""

    resync_seconds: float = 600
    """Curricula are listed again this often: a deletion that kopf's watch missed is seen then."""

    log_format: Literal["json", "text"] = "json"
    log_level: str = "INFO"
    policy: Policy = field(default_factory=Policy)

    @property
    def site_profiles(self) -> tuple[str, str] | None:
        """Namespace and name of the ConfigMap with the site's fabric profiles."""
        named = self.fabric_profiles
        return (self.lease_namespace, named) if named else None


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the variables `CURRICULUM_*`.

    Raises:
        ValueError: a value cannot be read; one line that names the variable.
    """
    env = os.environ if environ is None else environ
    given = {
        k.removeprefix(PREFIX).lower(): v for k, v in env.items() if k.startswith(PREFIX) and v
    }
    default = Settings()
    policy = Policy()
    namespace = given.get("lease_namespace") or env.get("POD_NAMESPACE") or default.lease_namespace
    log_format = given.get("log_format", default.log_format)
    if log_format not in ("json", "text"):
        raise ValueError(f'{PREFIX}LOG_FORMAT is "{log_format}": must be json or text')
    return Settings(
        namespaces=tuple(n for n in given.get("namespaces", "").replace(",", " ").split() if n),
        lease_name=given.get("lease_name", default.lease_name),
        lease_namespace=namespace,
        identity=given.get("identity") or f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}",
        fabric_profiles=given.get("fabric_profiles", default.fabric_profiles),
        progress_host=given.get("progress_host", default.progress_host),
        progress_port=int(_number(given, "progress_port", default.progress_port)),
        liveness_port=int(_number(given, "liveness_port", default.liveness_port)),
        workers=int(_number(given, "workers", default.workers)),
        node_workers=int(_number(given, "node_workers", default.node_workers)),
        progress_seconds=_number(given, "progress_seconds", default.progress_seconds),
        silence_seconds=_number(given, "silence_seconds", default.silence_seconds),
        resync_seconds=_number(given, "resync_seconds", default.resync_seconds),
        log_format="json" if log_format == "json" else "text",
        log_level=given.get("log_level", default.log_level).upper(),
        policy=Policy(
            node_grace_seconds=_number(given, "node_grace_seconds", policy.node_grace_seconds),
            form_seconds=_number(given, "form_seconds", policy.form_seconds),
            settle_seconds=_number(given, "settle_seconds", policy.settle_seconds),
            retry_base_seconds=_number(given, "retry_base_seconds", policy.retry_base_seconds),
            retry_max_seconds=_number(given, "retry_max_seconds", policy.retry_max_seconds),
            progress_url=given.get("progress_url", policy.progress_url),
        ),
    )


def _number(given: Mapping[str, str], key: str, default: float) -> float:
    text = given.get(key)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f'{PREFIX}{key.upper()} is "{text}": must be a number') from None
    if value < 0:
        raise ValueError(f'{PREFIX}{key.upper()} is "{text}": must not be negative')
    return value
