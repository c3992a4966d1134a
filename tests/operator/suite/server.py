"""A real API server as a backend of plays. Time is real there, so everything is short."""

import asyncio
import random

from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config

from curriculum_operator import cluster, kinds, lease
from curriculum_operator.clock import SystemClock
from curriculum_operator.cluster import ApiCluster
from curriculum_operator.observe import Policy
from curriculum_operator.settings import Settings

from .documents import NAMESPACE
from .stage import Play, Tempo, staged

REAL = Tempo(
    beat_seconds=0.05,
    settings=Settings(
        progress_seconds=1,
        policy=Policy(
            node_grace_seconds=2, form_seconds=20, settle_seconds=2, retry_base_seconds=0.5
        ),
    ),
    lease=lease.Timing(duration=3, renew_deadline=2, renew_every=1, retry_every=0.2),
    patience=1200.0,
    calm=40.0,
)

CLEANED = (
    kinds.CURRICULA,
    kinds.PYTORCHJOBS,
    kinds.JOBS,
    kinds.PODS,
    kinds.CONFIGMAPS,
    kinds.CLAIMS,
    kinds.EVENTS,
    kinds.LEASES,
    kinds.NODES,
    kinds.CLASSES,
    kinds.POOLS,
)


class AdminCluster(ApiCluster):
    """The operator's own client, and what a scheduler may do beside."""

    async def bind(self, namespace: str, name: str, node: str) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/binding"
        await self._request("POST", path, body=body)

    async def printed(self, namespace: str, name: str, text: str) -> None:
        """A real API server asks a node for its logs, and there is none."""


class Server:
    """Plays on an API server, from a clean cluster on."""

    def __init__(self, kubeconfig: str) -> None:
        self._kubeconfig = kubeconfig

    def run(self, play: Play) -> None:
        random.seed(0)
        asyncio.run(self._play(play))

    async def _play(self, play: Play) -> None:
        configuration = Configuration()
        await load_kube_config(self._kubeconfig, client_configuration=configuration)
        async with AdminCluster(ApiClient(configuration)) as admin:
            await _clean(admin)
            try:
                async with staged(admin, SystemClock(), REAL) as stage:
                    await play(stage)
            finally:
                await _clean(admin)


async def _clean(admin: AdminCluster) -> None:
    """Delete what plays make, twice where a deletion brings on another."""
    for kind in CLEANED:
        for _ in range(3):
            items, _version = await admin.list(kind)
            mine = [
                raw["metadata"]
                for raw in items
                if not kind.namespaced or raw["metadata"]["namespace"] in (NAMESPACE, "default")
            ]
            for meta in mine:
                if meta["name"] in ("kube-root-ca.crt", "kubernetes"):
                    continue
                await _remove(admin, kind, meta["name"], meta.get("namespace"))


async def _remove(admin: AdminCluster, kind: kinds.Kind, name: str, namespace: str | None) -> None:
    try:
        await admin.delete(kind, name, namespace, grace_seconds=0)
        if kind is kinds.CLAIMS:
            raw = await admin.get(kind, name, namespace)
            raw["metadata"]["finalizers"] = []
            await admin.replace(kind, raw)
    except (cluster.NotFound, cluster.Conflict):
        return
