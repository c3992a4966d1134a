"""On a real API server the operator may label, annotate and taint nodes by its prefix, no more.

The policy, the role and the binding are those that the chart renders; the operator is played by
its service account's name.
"""

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from tests.cluster import gobuild, lock, machine
from tests.helm import lint

from curriculum_operator import names

NAMESPACE = "curriculum-system"
RELEASE = "curriculum-operator"
SECONDS = 60

Document = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def helm_is_built() -> None:
    """The first run on a machine builds it."""
    if not gobuild.binary("helm").exists():
        machine.check()
        with lock.building(print):
            gobuild.build_all(print)


def rendered(*options: str) -> list[Document]:
    words = ("template", RELEASE, str(lint.CHART), f"--namespace={NAMESPACE}", *options)
    done = lint.helm(*words)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")


def test_it_is_made_unless_it_is_switched_off() -> None:
    with_it = [one["kind"] for one in rendered()]
    without = [one["kind"] for one in rendered("--set=nodePolicy.enabled=false")]

    assert [kind for kind in with_it if kind in POLICIES] == list(POLICIES)
    assert not set(POLICIES) & set(without)


def test_it_names_the_service_account_of_the_release() -> None:
    options = "--set=serviceAccount.create=false,serviceAccount.name=theirs"
    (policy,) = [one for one in rendered(options) if one["kind"] == POLICIES[0]]
    (condition,) = policy["spec"]["matchConditions"]

    assert f"'system:serviceaccount:{NAMESPACE}:theirs'" in condition["expression"]


class Person:
    """Somebody's calls about nodes; a refusal is its message, a success is empty."""

    def __init__(self, kubeconfig: str, user: str | None = None) -> None:
        self.api = config.new_client_from_config(kubeconfig)
        if user is not None:
            self.api.default_headers["Impersonate-User"] = user
        self.core = client.CoreV1Api(self.api)
        self.rights = client.RbacAuthorizationV1Api(self.api)
        self.admission = client.AdmissionregistrationV1Api(self.api)

    def patches(self, change: Document, **options: str) -> str:
        return refusal(lambda: self.core.patch_node("n", change, **options))

    def patches_status(self, change: Document) -> str:
        return refusal(lambda: self.core.patch_node_status("n", change))

    def replaces(self, edit: Callable[[Document], Any]) -> str:
        there = self.api.sanitize_for_serialization(self.core.read_node("n"))
        edit(there)
        return refusal(lambda: self.core.replace_node("n", there))


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except client.ApiException as error:
        return str(error.body)
    return ""


FOREIGN_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
QUARANTINE = {"key": f"{names.PREFIX}/quarantine", "value": "link", "effect": "NoSchedule"}
NODE: Document = {
    "metadata": {
        "name": "n",
        "labels": {"site": "lab", "kubernetes.io/arch": "arm64"},
        "annotations": {"owner": "us"},
    },
    "spec": {"taints": [FOREIGN_TAINT], "podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]},
}
RULES = {
    "apiGroups": [""],
    "resources": ["nodes", "nodes/status"],
    "verbs": ["get", "list", "create", "update", "patch", "delete"],
}


@pytest.fixture(scope="module")
def admin(apiserver: str) -> Iterator[Person]:
    """An administrator, once the policy is in force."""
    person = Person(apiserver)
    documents = {one["kind"]: one for one in rendered() if one["kind"] in POLICIES}
    # All that RBAC could grant on nodes, so that what is refused is refused by the policy.
    meta = {"name": "test-node-policy"}
    user = {"kind": "User", "apiGroup": "rbac.authorization.k8s.io"}
    role = {**user, "kind": "ClusterRole", "name": meta["name"]}
    person.rights.create_cluster_role({"metadata": meta, "rules": [RULES]})
    person.rights.create_cluster_role_binding(
        {
            "metadata": meta,
            "roleRef": role,
            "subjects": [{**user, "name": account(RELEASE)}, {**user, "name": account("another")}],
        }
    )
    person.admission.create_validating_admission_policy(documents[POLICIES[0]])
    person.admission.create_validating_admission_policy_binding(documents[POLICIES[1]])
    name = documents[POLICIES[0]]["metadata"]["name"]
    try:
        person.core.create_node(NODE)
        operator = Person(apiserver, account(RELEASE))
        deadline = time.monotonic() + SECONDS
        while not operator.patches({"metadata": {"labels": {"site": "x"}}}, dry_run="All"):
            assert time.monotonic() < deadline, f"after {SECONDS} s the policy is not in force"
            time.sleep(0.1)
        person.core.delete_node("n")
        yield person
    finally:
        person.admission.delete_validating_admission_policy_binding(name)
        person.admission.delete_validating_admission_policy(name)
        person.rights.delete_cluster_role_binding(meta["name"])
        person.rights.delete_cluster_role(meta["name"])


def account(name: str) -> str:
    return f"system:serviceaccount:{NAMESPACE}:{name}"


@pytest.fixture
def node(admin: Person) -> Iterator[None]:
    admin.core.create_node(copy.deepcopy(NODE))
    yield
    admin.core.delete_node("n")


@pytest.fixture
def operator(apiserver: str, node: None) -> Person:
    return Person(apiserver, account(RELEASE))


def labels(**given: str | None) -> Document:
    return {"metadata": {"labels": {key.replace("__", "/"): v for key, v in given.items()}}}


def taints(*given: Document) -> Document:
    return {"spec": {"taints": list(given)}}


OWN = f"{names.PREFIX}/accelerator-class"

TAKEN = [
    pytest.param({"metadata": {"labels": {OWN: "gb10-sm121"}}}, id="its label"),
    pytest.param(
        {"metadata": {"annotations": {names.CLASS_REASON_ANNOTATION: "by product"}}},
        id="its annotation",
    ),
    pytest.param(taints(FOREIGN_TAINT, QUARANTINE), id="its taint"),
    pytest.param(
        {**taints(QUARANTINE, FOREIGN_TAINT), "metadata": {"labels": {OWN: "x"}}},
        id="all in one",
    ),
    pytest.param({"metadata": {"labels": {"site": "lab"}}}, id="what is so already"),
]

REFUSED = [
    pytest.param(labels(site="x"), "labels that begin", id="another label"),
    pytest.param(labels(site=None), "labels that begin", id="another label's removal"),
    pytest.param(labels(new="x"), "labels that begin", id="a new label"),
    pytest.param(
        {"metadata": {"labels": {"curriculum.dev.evil/x": "y"}}},
        "labels that begin",
        id="a prefix that only begins alike",
    ),
    pytest.param(
        {"metadata": {"labels": {OWN: "x", "site": "x"}}},
        "labels that begin",
        id="another label beside its own",
    ),
    pytest.param({"metadata": {"labels": None}}, "labels that begin", id="all labels"),
    pytest.param(
        {"metadata": {"annotations": {"owner": "me"}}},
        "annotations that begin",
        id="another annotation",
    ),
    pytest.param(
        {"metadata": {"annotations": {"owner": None}}},
        "annotations that begin",
        id="another annotation's removal",
    ),
    pytest.param({"spec": {"unschedulable": True}}, "of a node's spec", id="a cordon"),
    pytest.param({"spec": {"providerID": "aws:///x"}}, "of a node's spec", id="the provider's id"),
    pytest.param(taints(), "taints that begin", id="another taint's removal"),
    pytest.param(
        taints(FOREIGN_TAINT, {"key": "mine", "effect": "NoExecute"}),
        "taints that begin",
        id="another taint",
    ),
    pytest.param(
        taints({**FOREIGN_TAINT, "effect": "PreferNoSchedule"}),
        "taints that begin",
        id="another taint's effect",
    ),
    pytest.param({"metadata": {"finalizers": ["x.y/z"]}}, "no metadata", id="a finalizer"),
    pytest.param(
        {
            "metadata": {
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]
            }
        },
        "no metadata",
        id="an owner",
    ),
]


@pytest.mark.apiserver
@pytest.mark.parametrize("change", TAKEN)
def test_the_operator_may_set_what_is_its_own(operator: Person, change: Document) -> None:
    assert operator.patches(change) == ""


@pytest.mark.apiserver
def test_the_operator_may_take_its_own_away(operator: Person) -> None:
    marked = {"metadata": {"labels": {OWN: "x"}}}
    assert operator.patches({**taints(FOREIGN_TAINT, QUARANTINE), **marked}) == ""
    assert operator.patches({**taints(FOREIGN_TAINT), "metadata": {"labels": {OWN: None}}}) == ""


@pytest.mark.apiserver
@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_the_operator_may_change_nothing_else(
    operator: Person, change: Document, message: str
) -> None:
    before = operator.core.read_node("n").metadata.resource_version

    assert message in operator.patches(change)
    assert operator.core.read_node("n").metadata.resource_version == before


@pytest.mark.apiserver
def test_an_update_is_held_as_a_patch_is(operator: Person) -> None:
    assert operator.replaces(lambda raw: raw["metadata"]["labels"].update({OWN: "x"})) == ""
    said = operator.replaces(lambda raw: raw["spec"].update(unschedulable=True))
    assert "of a node's spec" in said


@pytest.mark.apiserver
def test_the_operator_neither_makes_nor_removes_nodes_nor_writes_their_status(
    operator: Person,
) -> None:
    new = {"metadata": {"name": "new"}}

    assert "not create them" in refusal(lambda: operator.core.create_node(new))
    assert "not delete them" in refusal(lambda: operator.core.delete_node("n"))
    status = {"status": {"capacity": {"nvidia.com/gpu": "8"}}}
    assert "not update them by status" in operator.patches_status(status)


@pytest.mark.apiserver
@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_nobody_else_is_held(
    apiserver: str, admin: Person, node: None, change: Document, message: str
) -> None:
    assert admin.patches(change, dry_run="All") == ""
    assert Person(apiserver, account("another")).patches(change, dry_run="All") == ""


@pytest.mark.apiserver
def test_an_admin_may_say_a_nodes_class(admin: Person, node: None) -> None:
    assert admin.patches({"metadata": {"labels": {OWN: "x", names.MANAGED_LABEL: "false"}}}) == ""
