"""The cluster as the operator sees it: a Protocol, its errors, and the only client of the API.

Objects are plain JSON dictionaries, never deserialised into the client's models: at 3,000 pods
those models cost more than everything else. It knows HTTP and nothing of curricula.
"""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config

from curriculum_operator import names
from curriculum_operator.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    Gone,
    NotFound,
    Refused,
    Unavailable,
    error,
)
from curriculum_operator.kinds import (
    CLAIMS,
    CLASSES,
    CONFIGMAPS,
    CURRICULA,
    EVENTS,
    JOBS,
    LEASES,
    NODES,
    PODS,
    POOLS,
    PYTORCHJOBS,
    Kind,
)

__all__ = [
    "CLAIMS",
    "CLASSES",
    "CONFIGMAPS",
    "CURRICULA",
    "EVENTS",
    "JOBS",
    "LEASES",
    "NODES",
    "PODS",
    "POOLS",
    "PYTORCHJOBS",
    "AlreadyExists",
    "ApiCluster",
    "Cluster",
    "ClusterError",
    "Conflict",
    "Gone",
    "Kind",
    "NotFound",
    "Raw",
    "Refused",
    "TokenIdentity",
    "Unavailable",
    "connect",
]

Raw = dict[str, Any]
"""An API object as it came."""

PAGE_SIZE = 500
REQUEST_SECONDS = 30.0
WATCH_SECONDS = (300, 540)
"""A watch is ended by the server after a random time in this range, so that not all end at once."""

SILENCE_SECONDS = 90.0
"""The server sends a bookmark every minute; a stream that is silent for longer is dead."""

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_EXTRA = "authentication.kubernetes.io"


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """Whose token it is, by the API server's own account."""

    username: str
    namespace: str
    """Of the service account; empty where the token is none's."""

    pod_name: str
    pod_uid: str
    """The pod that the token is bound to; empty where it is bound to none."""


class Cluster(Protocol):
    """What the operator asks of a cluster. Every method may raise Refused or Unavailable."""

    async def list(
        self, kind: Kind, *, label_selector: str = "", field_selector: str = ""
    ) -> tuple[list[Raw], str]:
        """All objects, and the resource version to watch from. Raises NotFound without the kind.

        They are for reading: who writes which field, and what is the kind's bulk, may be left out.
        """

    def watch(
        self,
        kind: Kind,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[tuple[str, Raw]]:
        """ADDED, MODIFIED, DELETED, BOOKMARK and the object. Ends now and then. Raises Gone."""

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Raw:
        """One object. Raises NotFound."""

    async def create(self, kind: Kind, body: Raw) -> Raw:
        """Create it and return what was stored. Raises AlreadyExists."""

    async def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        """Delete it, dependents in the background. Raises NotFound; Conflict by `uid`."""

    async def replace_status(self, kind: Kind, body: Raw) -> Raw:
        """Replace the status under metadata.resourceVersion. Raises Conflict, NotFound."""

    async def replace(self, kind: Kind, body: Raw) -> Raw:
        """Replace it under metadata.resourceVersion. Raises Conflict, NotFound."""

    async def patch(self, kind: Kind, name: str, change: Raw, *, resource_version: str) -> Raw:
        """Merge `change` into a cluster-scoped object; None removes. Raises Conflict, NotFound."""

    async def log(self, namespace: str, pod: str, *, container: str, tail: int) -> str:
        """The last lines of a container's log; none on no node. Raises NotFound, Refused."""

    async def review_token(self, token: str, audience: str) -> TokenIdentity | None:
        """Whose token it is; None where it is not valid for `audience`."""


class ApiCluster:
    """A Cluster over HTTP. With a namespace, it lists and watches namespaced kinds only there."""

    def __init__(self, client: ApiClient, *, namespace: str | None = None) -> None:
        self._client = client
        self._namespace = namespace

    def within(self, namespace: str) -> "ApiCluster":
        """The same cluster, listed and watched in one namespace."""
        return ApiCluster(self._client, namespace=namespace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def list(
        self, kind: Kind, *, label_selector: str = "", field_selector: str = ""
    ) -> tuple[list[Raw], str]:
        path = _path(kind, self._namespace)
        query = _selectors(label_selector, field_selector) | {"limit": str(PAGE_SIZE)}
        while True:
            items: list[Raw] = []
            page: Raw = {"metadata": {"continue": ""}}
            try:
                while True:
                    token = page["metadata"].get("continue")
                    more = {"continue": token} if token else {}
                    page = await self._request("GET", path, query=query | more)
                    items += (_lean(kind, raw) for raw in page["items"])
                    if not page["metadata"].get("continue"):
                        return items, page["metadata"]["resourceVersion"]
            except Gone:
                # The pages went stale before the last was read.
                continue

    async def watch(
        self,
        kind: Kind,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[tuple[str, Raw]]:
        query = _selectors(label_selector, field_selector) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_SECONDS)
        response = await self._send("GET", _path(kind, self._namespace), query, None, timeout)
        try:
            buffer = b""
            async for chunk in response.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    yield _event(line)
        except (aiohttp.ClientError, TimeoutError) as broken:
            raise Unavailable(f"watch of {kind.plural} broke: {broken!r}") from broken
        finally:
            response.close()

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Raw:
        return await self._request("GET", _path(kind, namespace, name))

    async def create(self, kind: Kind, body: Raw) -> Raw:
        path = _path(kind, body["metadata"].get("namespace"))
        try:
            return await self._request("POST", path, query=_MANAGER, body=body)
        except Conflict as conflict:
            # Not about this object: a quota was changed meanwhile, for example.
            raise Unavailable(str(conflict)) from conflict

    async def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        options: Raw = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
        }
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        await self._request("DELETE", _path(kind, namespace, name), body=options)

    async def replace_status(self, kind: Kind, body: Raw) -> Raw:
        return await self._request("PUT", f"{_own(kind, body)}/status", query=_MANAGER, body=body)

    async def replace(self, kind: Kind, body: Raw) -> Raw:
        return await self._request("PUT", _own(kind, body), query=_MANAGER, body=body)

    async def patch(self, kind: Kind, name: str, change: Raw, *, resource_version: str) -> Raw:
        meta = {**change.get("metadata", {}), "resourceVersion": resource_version}
        body = {**change, "metadata": meta}
        return await self._request("PATCH", _path(kind, None, name), query=_MANAGER, body=body)

    async def log(self, namespace: str, pod: str, *, container: str, tail: int) -> str:
        query = {"container": container, "tailLines": str(tail)}
        answer = await self._read("GET", f"{_path(PODS, namespace, pod)}/log", query=query)
        return answer.decode(errors="replace")

    async def review_token(self, token: str, audience: str) -> TokenIdentity | None:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        status = (await self._request("POST", _TOKEN_REVIEWS, body=body)).get("status") or {}
        # A server that knows no audiences answers without them: then the token proves nothing.
        if not status.get("authenticated") or audience not in (status.get("audiences") or ()):
            return None
        user = status.get("user") or {}
        extra = user.get("extra") or {}
        parts = user.get("username", "").split(":")
        return TokenIdentity(
            username=user.get("username", ""),
            namespace=parts[2] if parts[:2] == ["system", "serviceaccount"] else "",
            pod_name=next(iter(extra.get(f"{_EXTRA}/pod-name") or ()), ""),
            pod_uid=next(iter(extra.get(f"{_EXTRA}/pod-uid") or ()), ""),
        )

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Raw | None = None,
    ) -> Raw:
        try:
            answer: Raw = json.loads(await self._read(method, path, query=query, body=body))
        except ValueError as broken:
            raise Unavailable(f"{method} {path}: {broken!r}") from broken
        return answer

    async def _read(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Raw | None = None,
    ) -> bytes:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=10)
        response = await self._send(method, path, query, body, timeout)
        try:
            return await response.read()
        except (aiohttp.ClientError, TimeoutError) as broken:
            raise Unavailable(f"{method} {path}: {broken!r}") from broken

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Raw | None,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """Send it and return the open answer; raises where its status is an error."""
        kind = "merge-patch+json" if method == "PATCH" else "json"
        # The body is not given to param_serialize: it would walk and copy all of it.
        _, url, headers, _, _ = await self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": f"application/{kind}"},
            auth_settings=["BearerToken"],
        )
        try:
            answer = await self._client.call_api(
                method, url, headers, body=body, _request_timeout=limits
            )
            response: aiohttp.ClientResponse = answer.response
            if response.status < 400:
                return response
            text = await response.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError) as broken:
            raise Unavailable(f"{method} {path}: {broken!r}") from broken
        raise error(response.status, text, response.headers.get("Retry-After"))


async def connect() -> ApiCluster:
    """A client by KUBECONFIG where it is set, else as a pod, else by the user's kubeconfig."""
    configuration = Configuration()
    given = os.environ.get("KUBECONFIG")
    if not given and await asyncio.to_thread(_SERVICE_ACCOUNT.exists):
        load_incluster_config(client_configuration=configuration)
    else:
        await load_kube_config(config_file=given, client_configuration=configuration)
    client = ApiClient(configuration)
    client.user_agent = names.FIELD_MANAGER
    return ApiCluster(client)


_MANAGER: Mapping[str, str] = {"fieldManager": names.FIELD_MANAGER}


def _lean(kind: Kind, raw: Raw) -> Raw:
    """Without what nobody reads: 5,000 nodes would else be held at once with all their images."""
    raw["metadata"].pop("managedFields", None)
    for part in kind.bulk:
        raw.get("status", {}).pop(part, None)
    return raw


def _path(kind: Kind, namespace: str | None, name: str = "") -> str:
    where = f"/namespaces/{namespace}" if kind.namespaced and namespace else ""
    return f"{kind.prefix}{where}/{kind.plural}" + (f"/{name}" if name else "")


def _own(kind: Kind, body: Raw) -> str:
    return _path(kind, body["metadata"].get("namespace"), body["metadata"]["name"])


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    given = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {key: value for key, value in given.items() if value}


def _event(line: bytes) -> tuple[str, Raw]:
    event = json.loads(line)
    if event["type"] == "ERROR":
        status = event["object"]
        raise error(status.get("code", 500), json.dumps(status))
    return event["type"], event["object"]
