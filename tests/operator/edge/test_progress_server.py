"""A report is taken only from a pod of that very attempt, and only by the operator that decides."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from curriculum_api.preflight.figures import Check, Measured
from curriculum_operator import names, observe, project
from curriculum_operator.clock import SystemClock
from curriculum_operator.cluster import TokenIdentity, Unavailable
from curriculum_operator.progress import BODY_BYTES, Server

from . import things
from .shelf import Shelf

PATH = (
    "/apis/curriculum.dev/v1alpha1/namespaces/{ns}/trainingcurricula/{name}"
    "/phases/{phase}/attempts/{attempt}/status"
)
REPORT: dict[str, Any] = {
    "trainerStatus": {
        "progressPercentage": 12,
        "estimatedRemainingSeconds": 3600,
        "metrics": [{"name": "loss", "value": "2.1"}],
        "lastUpdatedTime": "2026-01-01T00:00:00Z",
        "addedByALaterVersion": True,
    }
}


def pod(name: str, *, attempt: int = 1, uid: str = "pod-uid") -> observe.Pod:
    labels = names.attempt_labels(
        curriculum="tiny", uid=things.UID, phase="math", attempt=attempt, role=names.ROLE_TRAIN
    )
    meta = {"name": name, "namespace": "ns", "uid": uid, "labels": labels}
    found = project.pod(
        {"metadata": {**meta, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}}
    )
    assert found is not None
    return found


@dataclass
class Heard:
    """An engine that only listens."""

    ready: bool = True
    beats: list[tuple[str, str, int, observe.Beat]] = field(default_factory=list)
    told: list[tuple[str, str, int, Measured]] = field(default_factory=list)
    pods: dict[str, observe.Pod] = field(
        default_factory=lambda: {
            "tiny-math-1-master-0": pod("tiny-math-1-master-0"),
            "tiny-math-2-master-0": pod("tiny-math-2-master-0", attempt=2),
        }
    )

    def curriculum_named(self, namespace: str, name: str) -> observe.Curriculum | None:
        return things.subject() if (namespace, name) == ("ns", "tiny") else None

    def pod(self, namespace: str, name: str) -> observe.Pod | None:
        return self.pods.get(name) if namespace == "ns" else None

    def beat(self, curriculum_uid: str, phase: str, attempt: int, beat: observe.Beat) -> None:
        self.beats.append((curriculum_uid, phase, attempt, beat))

    def measured(self, curriculum_uid: str, phase: str, attempt: int, told: Measured) -> None:
        self.told.append((curriculum_uid, phase, attempt, told))


def identity(pod_name: str, *, namespace: str = "ns", uid: str = "pod-uid") -> TokenIdentity:
    username = f"system:serviceaccount:{namespace}:default"
    return TokenIdentity(username, namespace, pod_name, uid)


TOKENS = {
    "good": identity("tiny-math-1-master-0"),
    "next-attempt": identity("tiny-math-2-master-0"),
    "stranger": identity("somebody-else"),
    "namesake": identity("tiny-math-1-master-0", uid="of-the-one-before"),
    "elsewhere": identity("tiny-math-1-master-0", namespace="other"),
    "no-pod": identity("", uid=""),
}


@dataclass
class Stage:
    """A server that really listens, and what stands behind it."""

    client: TestClient[Any, Any]
    engine: Heard
    shelf: Shelf

    async def post(
        self, token: str | None = "good", body: Any = REPORT, **place: str
    ) -> tuple[int, str]:
        where = {"ns": "ns", "name": "tiny", "phase": "math", "attempt": "1", **place}
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        given = {"data": body} if isinstance(body, bytes) else {"json": body}
        async with self.client.post(PATH.format(**where), headers=headers, **given) as answer:
            return answer.status, await answer.text()


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    engine, shelf = Heard(), Shelf()
    for token, who in TOKENS.items():
        shelf.identities[f"{token} {names.PROGRESS_AUDIENCE}"] = who
    shelf.identities["other-audience some-other-audience"] = TOKENS["good"]
    server = TestServer(Server(engine, shelf, SystemClock()).application())
    async with TestClient(server) as client:
        yield Stage(client, engine, shelf)


async def test_what_was_measured_goes_along_and_reaches_the_engine(stage: Stage) -> None:
    node = {"node": "spark-1", "figures": {"matmul": 91.0}}
    measured = {"precision": "BF16", "nodes": [node]}
    assert await stage.post(body=REPORT | {"preflight": measured}) == (200, "ok\n")
    ((uid, phase, attempt, told),) = stage.engine.told
    assert (uid, phase, attempt) == (things.UID, "math", 1)
    assert told.nodes[0].figures == {Check.MATMUL: 91.0}


async def test_figures_that_cannot_be_read_cost_no_beat(stage: Stage) -> None:
    assert await stage.post(body=REPORT | {"preflight": {"rings": 3}}) == (200, "ok\n")
    assert len(stage.engine.beats) == 1
    assert stage.engine.told == []


async def test_a_report_of_the_attempts_own_pod_reaches_the_engine(stage: Stage) -> None:
    assert await stage.post() == (200, "ok\n")
    ((uid, phase, attempt, beat),) = stage.engine.beats
    assert (uid, phase, attempt) == (things.UID, "math", 1)
    assert (beat.percentage, beat.remaining_seconds) == (12, 3600)
    assert beat.metrics == (("loss", "2.1"),)


@pytest.mark.parametrize(
    ("token", "place", "status"),
    [
        pytest.param(None, {}, 401, id="no token"),
        pytest.param("invented", {}, 401, id="a token that is not good"),
        pytest.param("other-audience", {}, 401, id="a token for another audience"),
        pytest.param("x" * 5_000, {}, 401, id="a token longer than any"),
        pytest.param("stranger", {}, 403, id="a pod of nobody's"),
        pytest.param("no-pod", {}, 403, id="a token bound to no pod"),
        pytest.param("namesake", {}, 403, id="a pod that had the name before"),
        pytest.param("elsewhere", {}, 403, id="a pod of another namespace"),
        pytest.param("next-attempt", {}, 403, id="a pod of another attempt"),
        pytest.param("good", {"attempt": "2"}, 403, id="about another attempt"),
        pytest.param("good", {"attempt": "x"}, 403, id="about no attempt"),
        pytest.param("good", {"phase": "other"}, 403, id="about another phase"),
        pytest.param("good", {"ns": "other"}, 403, id="about another namespace"),
        pytest.param("good", {"name": "other"}, 404, id="about another curriculum"),
    ],
)
async def test_nobody_else_is_heard(
    stage: Stage, token: str | None, place: dict[str, str], status: int
) -> None:
    found, text = await stage.post(token, **place)
    assert found == status
    assert text.count("\n") == 1
    assert stage.engine.beats == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"{", 400, id="not JSON"),
        pytest.param({}, 400, id="no report"),
        pytest.param({"trainerStatus": {"progressPercentage": 101}}, 400, id="more than all"),
        pytest.param(b" " * (BODY_BYTES + 1), 413, id="too long"),
    ],
)
async def test_a_report_that_cannot_be_read_is_refused(
    stage: Stage, body: Any, status: int
) -> None:
    found, _ = await stage.post(body=body)
    assert found == status
    assert stage.engine.beats == []


async def test_a_token_is_reviewed_once_for_many_reports(stage: Stage) -> None:
    for _ in range(5):
        await stage.post()
    assert len(stage.engine.beats) == 5
    assert stage.shelf.reads == ["review good"]


async def test_an_api_server_that_does_not_answer_is_no_refusal(stage: Stage) -> None:
    stage.shelf.errors("review good", Unavailable("down"))
    assert (await stage.post())[0] == 503
    assert (await stage.post())[0] == 200


async def test_only_the_operator_that_decides_is_ready_and_listens(stage: Stage) -> None:
    async with stage.client.get("/readyz") as answer:
        assert answer.status == 200
    stage.engine.ready = False
    async with stage.client.get("/readyz") as answer:
        assert answer.status == 503
    assert (await stage.post())[0] == 503
    assert stage.engine.beats == []
