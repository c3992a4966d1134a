"""Where trainers report their progress: an HTTP server in Kubeflow Trainer's protocol.

    POST .../namespaces/NS/trainingcurricula/NAME/phases/PHASE/attempts/N/status
    Authorization: Bearer <token of the pod's service account, audience curriculum.dev/progress>
    {"trainerStatus": {"progressPercentage": 12, "estimatedRemainingSeconds": 3600,
                       "metrics": [{"name": "loss", "value": "2.1"}], "lastUpdatedTime": "..."}}

A report is taken only from a pod of that very attempt: its token is bound to the pod, and the API
server vouches for it. `/readyz` is here too, so that reports reach only the operator that decides.
It keeps nothing but answers of the API server, for a while; reports go to the engine.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from aiohttp import web
from pydantic import Field, ValidationError

from curriculum_api.preflight.figures import Measured
from curriculum_api.v1alpha1.status import Progress
from curriculum_api.wire import Wire, problems
from curriculum_operator import clock, cluster, names, observe
from curriculum_operator.clock import Clock
from curriculum_operator.cluster import Cluster, TokenIdentity

logger = logging.getLogger(__name__)

PATH = (
    "/apis/curriculum.dev/v1alpha1/namespaces/{namespace}/trainingcurricula/{name}"
    "/phases/{phase}/attempts/{attempt}/status"
)
BODY_BYTES = 256 * 1024
TOKEN_BYTES = 4 * 1024
KNOWN_SECONDS = 300.0
REFUSED_SECONDS = 10.0
"""How long the API server's answer about a token is believed."""

TOKENS = 4096
REVIEWS_AT_ONCE = 8


class Engine(Protocol):
    """What the server needs of the engine."""

    @property
    def ready(self) -> bool: ...
    def curriculum_named(self, namespace: str, name: str) -> observe.Curriculum | None: ...
    def pod(self, namespace: str, name: str) -> observe.Pod | None: ...
    def beat(self, curriculum_uid: str, phase: str, attempt: int, beat: observe.Beat) -> None: ...
    def measured(self, curriculum_uid: str, phase: str, attempt: int, told: Measured) -> None: ...


class TrainerStatus(Progress):
    """A trainer's report; what newer trainers add is ignored."""

    model_config = {**Wire.model_config, "extra": "ignore"}


class Report(Wire):
    """The body of a report."""

    model_config = {**Wire.model_config, "extra": "ignore"}
    trainer_status: TrainerStatus = Field()
    preflight: dict[str, Any] | None = None
    """What the attempt measured of its nodes; read apart, so that no beat is lost by it."""


class Tokens:
    """Whose tokens are whose, by the API server's account, kept by the token's hash."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[bytes, tuple[float, TokenIdentity | None]] = {}
        self._reviews = asyncio.Semaphore(REVIEWS_AT_ONCE)

    async def identity(self, token: str) -> TokenIdentity | None:
        """Whose token it is; None where it is not good. Raises ClusterError."""
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None and known[0] > clock.monotonic():
            return known[1]
        async with self._reviews:
            identity = await self._cluster.review_token(token, names.PROGRESS_AUDIENCE)
        until = clock.monotonic() + (KNOWN_SECONDS if identity else REFUSED_SECONDS)
        self._known.pop(digest, None)
        if len(self._known) >= TOKENS:
            del self._known[next(iter(self._known))]
        self._known[digest] = (until, identity)
        return identity


class Server:
    """Takes reports and gives them to the engine."""

    def __init__(self, engine: Engine, cluster: Cluster, clock: Clock) -> None:
        self._engine = engine
        self._tokens = Tokens(cluster)
        self._clock = clock

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_post(PATH, self._status)
        return app

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._engine.ready:
            return _line(200, "ok")
        return _line(503, "not synced yet, or the Lease is another's")

    async def _status(self, request: web.Request) -> web.Response:
        if not self._engine.ready:
            return _line(503, "not synced yet, or the Lease is another's")
        token = _bearer(request)
        if token is None:
            return _line(401, "a bearer token is needed")
        try:
            identity = await self._tokens.identity(token)
        except cluster.ClusterError as error:
            logger.warning("a token could not be reviewed: %s", error)
            return _line(503, "the token could not be reviewed; try again")
        if identity is None:
            return _line(401, f'the token is not valid for audience "{names.PROGRESS_AUDIENCE}"')
        at = request.match_info
        refusal = self._refusal(at["namespace"], at["name"], at["phase"], at["attempt"], identity)
        if refusal is not None:
            return refusal
        try:
            report = Report.model_validate_json(await request.read())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            return _line(400, f"cannot read the report: {where}: {first['msg']}")
        curriculum = self._engine.curriculum_named(at["namespace"], at["name"])
        if curriculum is not None:
            attempt = (curriculum.uid, at["phase"], int(at["attempt"]))
            self._engine.beat(*attempt, self._beat(report.trainer_status))
            measured = _measured(report)
            if measured is not None:
                self._engine.measured(*attempt, measured)
        return _line(200, "ok")

    def _refusal(
        self, namespace: str, name: str, phase: str, attempt: str, identity: TokenIdentity
    ) -> web.Response | None:
        """Why this caller may not report on this attempt; None where it may."""
        what = f'attempt {attempt} of phase "{phase}" of "{namespace}/{name}"'
        pod = self._engine.pod(namespace, identity.pod_name)
        if (
            identity.namespace != namespace
            or pod is None
            or pod.uid != identity.pod_uid
            or (pod.phase, str(pod.attempt)) != (phase, attempt)
        ):
            return _line(403, f"the token's pod is none of {what}")
        curriculum = self._engine.curriculum_named(namespace, name)
        if curriculum is None or curriculum.uid != pod.curriculum_uid:
            return _line(404, f"there is no {what}")
        return None

    def _beat(self, status: TrainerStatus) -> observe.Beat:
        return observe.Beat(
            received=self._clock.now(),
            percentage=status.progress_percentage,
            remaining_seconds=status.estimated_remaining_seconds,
            metrics=tuple((metric.name, metric.value) for metric in status.metrics),
        )


def _measured(report: Report) -> Measured | None:
    if report.preflight is None:
        return None
    try:
        return Measured.model_validate(report.preflight)
    except ValidationError as error:
        logger.warning("cannot read what a preflight measured: %s", problems(error))
        return None


@asynccontextmanager
async def serve(server: Server, host: str, port: int) -> AsyncIterator[int]:
    """Serve until left; yields the port, which the system chose where 0 was given."""
    runner = web.AppRunner(
        server.application(), handle_signals=False, access_log=None, shutdown_timeout=1.0
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        address: Any = runner.addresses[0]
        yield address[1]
    finally:
        await runner.cleanup()


def _bearer(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > TOKEN_BYTES:
        return None
    return token.strip()


def _line(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n")
