"""What kopf does: it watches the curricula, serves the liveness probe, and ends on a signal.

Only events are handled: no on.create, on.update or on.field, no daemons and no timers. So kopf
writes nothing into any object, adds no finalizer, and has nothing to replay after a restart.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Any

import kopf

from curriculum_operator.engine import Engine
from curriculum_operator.kinds import CURRICULA
from curriculum_operator.settings import Settings

Stop = Callable[[], Awaitable[None]]


def registry(engine: Engine, stop: Stop) -> kopf.OperatorRegistry:
    """The handlers that feed `engine`; `stop` ends it."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.startup(registry=handlers)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        # Kinds are looked up once, and __main__ waits for ours: no right to read all
        # CustomResourceDefinitions and Namespaces is needed.
        settings.scanning.disabled = True
        settings.watching.server_timeout = 600
        settings.watching.client_timeout = 630
        settings.watching.connect_timeout = 10
        settings.networking.request_timeout = 60
        settings.networking.connect_timeout = 10
        settings.queueing.exit_timeout = 0.5
        settings.process.ultimate_exiting_timeout = 30

    @kopf.on.login(registry=handlers)
    async def log_in(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo | None:
        if os.environ.get("KUBECONFIG"):
            return kopf.login_with_kubeconfig(settings=settings)
        pod = kopf.login_with_service_account(settings=settings)
        return pod or kopf.login_with_kubeconfig(settings=settings)

    @kopf.on.event(CURRICULA.group, CURRICULA.version, CURRICULA.plural, registry=handlers)
    async def curriculum(event: kopf.RawEvent, **_: Any) -> None:
        engine.curriculum_event(event["type"], dict(event["object"]))

    @kopf.on.probe(registry=handlers, id="engine")
    async def probe(**_: Any) -> str:
        ailment = engine.ailment()
        if ailment is not None:
            # Any other error would be tried again inside the probe.
            raise kopf.PermanentError(ailment)
        return "ready" if engine.ready else "standing by"

    @kopf.on.cleanup(registry=handlers)
    async def clean_up(**_: Any) -> None:
        # Here, because kopf would next wait for all tasks that are left, and then cancel them.
        await stop()

    return handlers


async def run(engine: Engine, settings: Settings, stop: Stop) -> None:
    """Run kopf until a signal, or until one of its watches dies."""
    await kopf.operator(
        registry=registry(engine, stop),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        liveness_endpoint=f"http://0.0.0.0:{settings.liveness_port}/healthz",
    )
