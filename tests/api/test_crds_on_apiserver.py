"""A real API server takes the CRDs within its cost budget, and judges curricula by them.

The fixture `apiserver` gives the path of a kubeconfig. Objects go to the namespace `default`, by
dry run where the judgement is all that is wanted.
"""

import copy
import json
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config

from curriculum_api.v1alpha1 import KINDS, TrainingCurriculum
from curriculum_api.wire import GROUP, VERSION

from .cases import (
    EDITS_REFUSED,
    EDITS_TAKEN,
    HERE,
    LONG,
    REFUSED,
    TAKEN,
    Document,
    Edit,
    phase,
    spec,
    started,
    worked,
)

pytestmark = pytest.mark.apiserver

CRDS = Path(__file__).parents[2] / "crds"
NAMESPACE = "default"
OTHER_GROUP = f"earlier.{GROUP}"
"""A second home of the same kinds, whose CRD a test may loosen without disturbing others."""

SECONDS = 30


class Server:
    """The few calls that the tests make; a refusal is its message, a success is empty."""

    def __init__(self, api: client.ApiClient, group: str = GROUP) -> None:
        self.api = api
        self.group = group
        self.objects = client.CustomObjectsApi(api)
        self.extensions = client.ApiextensionsV1Api(api)

    @property
    def _curricula(self) -> dict[str, str]:
        plural = TrainingCurriculum.resource.plural
        return {
            "group": self.group,
            "version": VERSION,
            "namespace": NAMESPACE,
            "plural": plural,
        }

    def create(self, document: Document, dry_run: bool = False) -> str:
        body = self._ours(document)
        dry = {"dry_run": "All"} if dry_run else {}
        return _refusal(
            lambda: self.objects.create_namespaced_custom_object(
                **self._curricula, body=body, **dry
            )
        )

    def replace(self, document: Document, dry_run: bool = False) -> str:
        name, dry = document["metadata"]["name"], {"dry_run": "All"} if dry_run else {}
        return _refusal(
            lambda: self.objects.replace_namespaced_custom_object(
                **self._curricula, name=name, body=self._ours(document), **dry
            )
        )

    def report(self, document: Document) -> str:
        """Write the document's status, as the operator does."""
        name, body = document["metadata"]["name"], {"status": document["status"]}
        return _refusal(
            lambda: self.objects.patch_namespaced_custom_object_status(
                **self._curricula, name=name, body=body
            )
        )

    def read(self, name: str) -> Document:
        return dict(self.objects.get_namespaced_custom_object(**self._curricula, name=name))

    def delete(self, name: str) -> str:
        return _refusal(
            lambda: self.objects.delete_namespaced_custom_object(**self._curricula, name=name)
        )

    def serve(self, definition: Document) -> None:
        """Create or replace a CRD, and wait until it is served."""
        name = definition["metadata"]["name"]
        try:
            self.extensions.create_custom_resource_definition(definition)
        except client.ApiException as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            present = self.extensions.read_custom_resource_definition(name)
            version = {"resourceVersion": present.metadata.resource_version}
            newer = {**definition, "metadata": {**definition["metadata"], **version}}
            self.extensions.replace_custom_resource_definition(name, newer)
        until(lambda: self._conditions(name).get("Established") == "True", f"{name} is served")

    def _conditions(self, name: str) -> dict[str, str]:
        found = self.extensions.read_custom_resource_definition(name).status.conditions or []
        return {one.type: one.status for one in found}

    def get(self, path: str) -> Any:
        token = ["BearerToken"]
        call = self.api.param_serialize("GET", path, auth_settings=token)
        return json.loads(self.api.call_api(*call).read())

    def _ours(self, document: Document) -> Document:
        metadata = {**document["metadata"], "namespace": NAMESPACE}
        return {**document, "apiVersion": f"{self.group}/{VERSION}", "metadata": metadata}


def _refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except client.ApiException as error:
        return str(json.loads(error.body)["message"])
    return ""


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until the server is that far; its caches follow a CRD within a second or so."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"after {SECONDS} s still not: {what}"
        time.sleep(0.05)


def _committed() -> list[Document]:
    return [yaml.safe_load((CRDS / f"{kind.resource.plural}.yaml").read_text()) for kind in KINDS]


@pytest.fixture(scope="module")
def server(apiserver: Path) -> Iterator[Server]:
    with config.new_client_from_config(str(apiserver)) as api:
        served = Server(api)
        for definition in _committed():
            served.serve(definition)
        until(lambda: served.create(worked(), dry_run=True) == "", "curricula are served")
        yield served


@pytest.fixture
def stored(server: Server) -> Iterator[Callable[[Document], None]]:
    """Store a curriculum with its status; it is deleted afterwards."""
    names: list[str] = []

    def store(document: Document) -> None:
        names.append(document["metadata"]["name"])
        assert server.create(document) == ""
        assert server.report(document) == ""

    yield store
    for name in names:
        assert server.delete(name) == ""


@pytest.mark.parametrize(
    ("file", "plural"),
    [("accelerator-class", "acceleratorclasses"), ("rented-pool", "rentedpools")],
)
def test_the_other_kinds_are_taken_under_a_name_that_fits_a_label(
    server: Server, file: str, plural: str
) -> None:
    body = yaml.safe_load((HERE / f"{file}.yaml").read_text())

    def create(name: str) -> str:
        named = {**body, "metadata": {"name": name}}
        return _refusal(
            lambda: server.objects.create_cluster_custom_object(
                GROUP, VERSION, plural, named, dry_run="All"
            )
        )

    assert create("a-worked-object") == ""
    assert "`metadata.name` must be a DNS-1035 label" in create("100-b200")


@pytest.mark.parametrize("document", TAKEN)
def test_a_sound_curriculum_is_taken(server: Server, document: Document) -> None:
    assert server.create(document, dry_run=True) == ""


@pytest.mark.parametrize(("document", "message"), REFUSED)
def test_an_unsound_curriculum_is_refused_with_the_way_out(
    server: Server, document: Document, message: str
) -> None:
    assert message in server.create(document, dry_run=True)


@pytest.mark.parametrize(("old", "edit"), EDITS_TAKEN)
def test_an_edit_that_changes_nothing_trained_is_taken(
    server: Server, stored: Callable[[Document], None], old: Document, edit: Edit
) -> None:
    stored(old)
    assert server.replace(_edited(server, old, edit), dry_run=True) == ""


@pytest.mark.parametrize(("old", "edit", "message"), EDITS_REFUSED)
def test_an_edit_of_what_has_started_is_refused_with_the_way_out(
    server: Server, stored: Callable[[Document], None], old: Document, edit: Edit, message: str
) -> None:
    stored(old)
    assert message in server.replace(_edited(server, old, edit), dry_run=True)


def test_the_operator_reports_on_what_has_started(
    server: Server, stored: Callable[[Document], None]
) -> None:
    stored(worked(started(0)))
    assert server.report(worked(started(0, 1, 2, 3))) == ""
    attempts = [one["attempts"] for one in server.read("slm-8b-cpp")["status"]["phases"]]
    assert attempts == [1, 1, 1, 1]


def test_a_new_curriculum_is_pending_before_any_operator_saw_it(
    server: Server, stored: Callable[[Document], None]
) -> None:
    """kstatus takes an object for done that says nothing of its generation."""
    stored(worked(lambda d: d.update(status={})))
    status = server.read("slm-8b-cpp")["status"]
    assert status == {"observedGeneration": 0, "state": "Pending"}


def test_what_is_stored_is_read_and_keeps_a_deep_configuration(
    server: Server, stored: Callable[[Document], None]
) -> None:
    deep = {"model_type": "llama", "rope_parameters": {"factors": [1.0, 2.5], "null": None}}
    document = worked(spec(model={"config": deep}), started(0))
    stored(document)
    read = TrainingCurriculum.model_validate(server.read("slm-8b-cpp"))
    assert read.spec == TrainingCurriculum.model_validate(document).spec
    assert read.spec.model.config == deep
    assert read.status == TrainingCurriculum.model_validate(document).status


def test_curricula_are_selected_by_state_and_queue(
    server: Server, stored: Callable[[Document], None]
) -> None:
    stored(worked(spec(queueName="research"), started(0)))

    def names(selector: str) -> list[str]:
        found = server.objects.list_namespaced_custom_object(
            GROUP,
            VERSION,
            NAMESPACE,
            TrainingCurriculum.resource.plural,
            field_selector=selector,
        )
        return [one["metadata"]["name"] for one in found["items"]]

    assert "slm-8b-cpp" in names("status.state=Running")
    assert "slm-8b-cpp" not in names("status.state=Pending")
    assert "slm-8b-cpp" in names("spec.queueName=research")


def test_a_rule_that_came_later_does_not_stop_reports_on_older_objects(server: Server) -> None:
    """The rules sit low enough that an object from before them is reported on, and suspended."""
    (definition,) = (one for one in _committed() if "trainingcurricula" in str(one["metadata"]))
    definition["metadata"]["name"] = f"{TrainingCurriculum.resource.plural}.{OTHER_GROUP}"
    definition["spec"]["group"] = OTHER_GROUP
    definition["spec"]["names"] |= {"shortNames": [], "categories": []}
    earlier = Server(server.api, OTHER_GROUP)
    unsound = worked(phase(LONG, contextLength=524289))
    try:
        earlier.serve(_without_rules(definition))
        until(lambda: earlier.create(unsound) == "", "the loose CRD is served")
        earlier.serve(definition)
        again = {**unsound, "metadata": {"name": "again"}}
        until(lambda: earlier.create(again, dry_run=True) != "", "the rules are held")
        assert earlier.report(worked(started(0, 1, 2))) == ""
        suspended = earlier.read("slm-8b-cpp")
        suspended["spec"]["suspend"] = True
        assert earlier.replace(suspended) == ""
    finally:
        server.extensions.delete_custom_resource_definition(definition["metadata"]["name"])


def test_kubectl_explain_has_a_sentence_for_every_field(server: Server) -> None:
    path = f"/openapi/v3/apis/{GROUP}/{VERSION}"
    until(lambda: path.removeprefix("/openapi/v3/") in server.get("/openapi/v3")["paths"], path)
    wanted = {kind.__name__ for kind in KINDS}

    def published() -> dict[str, Document]:
        schemas = server.get(path)["components"]["schemas"]
        return {name.rsplit(".", 1)[-1]: one for name, one in schemas.items()}

    until(lambda: wanted <= published().keys(), "all kinds are published")
    found = published()
    for kind in wanted:
        fields = list(_fields(found[kind], kind))
        assert len(fields) > 10
        assert [path for path, one in fields if not one.get("description")] == []


def _fields(schema: Document, path: str) -> Iterator[tuple[str, Document]]:
    for name, one in schema.get("properties", {}).items():
        yield f"{path}.{name}", one
        yield from _fields(one, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _fields(schema[key], path)


def _edited(server: Server, old: Document, edit: Edit) -> Document:
    """The stored object with its version, edited as the same edit of what was sent."""
    new = copy.deepcopy(old)
    edit(new)
    version = server.read(old["metadata"]["name"])["metadata"]["resourceVersion"]
    return {**new, "metadata": {**new["metadata"], "resourceVersion": version}}


def _without_rules(node: Any) -> Any:
    if isinstance(node, dict):
        kept = {key: one for key, one in node.items() if key != "x-kubernetes-validations"}
        return {key: _without_rules(one) for key, one in kept.items()}
    return [_without_rules(one) for one in node] if isinstance(node, list) else node
