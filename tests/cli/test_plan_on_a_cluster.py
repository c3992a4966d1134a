"""`curriculum plan --cluster`: the cluster's classes, pools and measurements, not the files'."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from curriculum_api.classes import CLASSES
from curriculum_cli import plan, plan_cluster
from curriculum_operator import kinds
from curriculum_operator.cluster import ClusterError, Kind, NotFound, Raw, Refused, Unavailable

ARTICLE = Path(__file__).parents[2] / "examples/article-8b.yaml"


class FakeCluster:
    """A cluster that lists what it was given, or answers with an error."""

    def __init__(self, objects: Mapping[Kind, list[Raw] | ClusterError]) -> None:
        self._objects = objects

    async def __aenter__(self) -> "FakeCluster":
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def list(self, kind: Kind) -> tuple[list[Raw], str]:
        found = self._objects[kind]
        if isinstance(found, ClusterError):
            raise found
        return found, "1"


def accelerator(name: str, *measurements: Mapping[str, str], **spec: Any) -> Raw:
    """One of the chart's classes as a cluster has it."""
    return {
        "metadata": {"name": name},
        "spec": {"image": "trainer", **CLASSES[name], **spec},
        "status": {"measurements": list(measurements)},
    }


def pool(**spec: Any) -> Raw:
    """The article's pool as a cluster has it."""
    given = {"acceleratorClass": "b200-sm100", "provider": "Static", "maxNodes": 2}
    terms = {"pricePerGPUHour": "2", **spec}
    return {"metadata": {"name": "b200-cloud"}, "spec": given | terms}


HALF = {
    "model": "32x4096 8.03B",
    "precision": "BF16",
    "efficiency": "0.5",
    "tokensPerSecond": "356",
}
"""A Spark that trains the article's model at half of what is estimated."""


def reach(
    monkeypatch: pytest.MonkeyPatch, objects: Mapping[Kind, list[Raw] | ClusterError]
) -> None:
    """Have the command reach a cluster with these objects."""

    async def connect() -> FakeCluster:
        return FakeCluster(objects)

    monkeypatch.setattr(plan_cluster.of, "__defaults__", (connect,))


def phases(capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, Any]]:
    """The phases of the article's plan."""
    plan.main(["-f", str(ARTICLE), "-o", "json", *options])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["phases"]
    return found


def test_what_the_cluster_has_goes_before_the_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offline = phases(capsys)
    spark = accelerator("gb10-sm121", HALF)
    reach(
        monkeypatch,
        {kinds.CLASSES: [spark, accelerator("b200-sm100")], kinds.POOLS: [pool()]},
    )
    online = phases(capsys, "--cluster")
    assert online[0]["tokensPerSecond"] == pytest.approx(offline[0]["tokensPerSecond"] / 2)
    assert online[0]["basis"].startswith("measured on gb10-sm121, 32x4096 8.03B")
    assert offline[0]["basis"] == "estimate"
    assert online[2]["tokensPerSecond"] == offline[2]["tokensPerSecond"]
    assert online[2]["usd"] == pytest.approx(offline[2]["usd"] * 2 / 4, rel=0.02)


def test_a_class_that_only_the_files_have_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reach(monkeypatch, {kinds.CLASSES: [accelerator("gb10-sm121")], kinds.POOLS: []})
    online = phases(capsys, "--cluster")
    assert online[2]["problems"] == [
        'accelerator class "b200-sm100" is not known; known: gb10-sm121; add it'
    ]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        pytest.param(
            Refused(403, 'User "ann" cannot list resource "acceleratorclasses"'),
            'the cluster does not list its acceleratorclasses: User "ann" cannot list resource'
            ' "acceleratorclasses"',
            id="no rights",
        ),
        pytest.param(
            NotFound("the server could not find the requested resource"),
            "the cluster serves no acceleratorclasses: install the operator",
            id="no operator",
        ),
        pytest.param(
            Unavailable("GET /x: Cannot connect\nto host"),
            "the cluster does not answer: GET /x: Cannot connect to host",
            id="no answer",
        ),
    ],
)
def test_a_cluster_that_does_not_say_is_told_in_one_line(
    error: ClusterError,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reach(monkeypatch, {kinds.CLASSES: error})
    assert plan.main(["-f", str(ARTICLE), "--cluster"]) == plan.UNREADABLE
    assert capsys.readouterr().err == f"curriculum plan: {told}\n"


def test_without_a_configuration_there_is_no_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the real client, down to the file that is not there."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert plan.main(["-f", str(ARTICLE), "--cluster"]) == plan.UNREADABLE
    told = capsys.readouterr().err
    assert told.startswith("curriculum plan: no cluster is configured: ")
    assert told.endswith(": set KUBECONFIG\n")
    assert told.count("\n") == 1


def test_an_address_where_nobody_listens_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config"
    config.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n"
        "clusters: [{name: a, cluster: {server: 'http://127.0.0.1:9'}}]\n"
        "users: [{name: a, user: {}}]\n"
        "contexts: [{name: a, context: {cluster: a, user: a}}]\n"
    )
    monkeypatch.setenv("KUBECONFIG", str(config))
    assert plan.main(["-f", str(ARTICLE), "--cluster"]) == plan.UNREADABLE
    told = capsys.readouterr().err
    assert told.startswith("curriculum plan: the cluster does not answer: ")
    assert told.count("\n") == 1
