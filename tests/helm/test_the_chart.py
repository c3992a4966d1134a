"""The chart renders what the operator needs, and refuses values that it does not know."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster import gobuild, lock, machine
from tests.helm import lint

from curriculum_operator import kinds

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def helm_is_built() -> None:
    """The first run on a machine builds it."""
    if not gobuild.binary("helm").exists():
        machine.check()
        with lock.building(print):
            gobuild.build_all(print)


def render(*options: str) -> list[dict[str, Any]]:
    """The chart's objects."""
    done = lint.helm("template", "release", str(lint.CHART), "--namespace=here", *options)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(documents: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


def test_the_chart_passes_its_linter() -> None:
    done = lint.helm("lint", "--strict", str(lint.CHART))

    assert done.returncode == 0, done.stdout


def test_the_crds_are_those_of_the_models_and_outlive_the_release() -> None:
    rendered = of_kind(render(), "CustomResourceDefinition")

    assert len(rendered) == 3
    for crd in rendered:
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        plural = crd["spec"]["names"]["plural"]
        source = yaml.safe_load((ROOT / f"crds/{plural}.yaml").read_text())
        assert source["spec"] == crd["spec"]


def test_both_accelerator_classes_are_installed() -> None:
    classes = of_kind(render(), "AcceleratorClass")

    assert sorted(c["metadata"]["name"] for c in classes) == ["b200-sm100", "gb10-sm121"]


def test_the_pod_is_restricted() -> None:
    (deployment,) = of_kind(render(), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert {**pod["securityContext"], **container["securityContext"]}["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_operator_may_do_what_it_does_and_no_more() -> None:
    roles = of_kind(render(), "ClusterRole") + of_kind(render(), "Role")
    may = {
        (group, resource): set(rule["verbs"])
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }

    assert may["curriculum.dev", "trainingcurricula/finalizers"] == {"update"}
    assert "update" in may["curriculum.dev", "trainingcurricula/status"]
    assert may["curriculum.dev", "acceleratorclasses/status"] == {"update"}
    assert {"create", "delete"} <= may["kubeflow.org", "pytorchjobs"]
    assert {"create", "get", "update"} <= may["", "events"]
    assert "secrets" not in {resource for _, resource in may}
    assert all("*" not in verbs for verbs in may.values())
    assert may["", "nodes"] == {"get", "list", "watch", "patch"}
    for kind in (kinds.PYTORCHJOBS, kinds.JOBS, kinds.PODS):
        assert {"list", "watch", "delete"} <= may[kind.group, kind.plural]


def test_a_misspelt_value_is_refused() -> None:
    done = lint.helm("template", "release", str(lint.CHART), "--set=imgae.tag=1")

    assert done.returncode != 0
    assert "imgae" in done.stderr


def test_the_progress_url_is_the_service_and_port_of_the_release() -> None:
    documents = render()
    (service,) = of_kind(documents, "Service")
    (deployment,) = of_kind(documents, "Deployment")
    environment = {
        variable["name"]: variable.get("value")
        for variable in deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    }

    name = service["metadata"]["name"]
    assert environment["CURRICULUM_PROGRESS_URL"] == f"http://{name}.here.svc:8090"


def test_a_sites_fabric_profiles_are_named_and_only_read() -> None:
    named = render("--set=fabricProfiles=our-fabrics")
    (role,) = of_kind(named, "Role")
    (deployment,) = of_kind(named, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]

    (rule,) = [rule for rule in role["rules"] if "configmaps" in rule["resources"]]
    assert (rule["resourceNames"], rule["verbs"]) == (["our-fabrics"], ["list", "watch"])
    assert role["metadata"]["namespace"] == "here"
    assert {"name": "CURRICULUM_FABRIC_PROFILES", "value": "our-fabrics"} in container["env"]
    plain = [rule for role in of_kind(render(), "Role") for rule in role["rules"]]
    assert not [rule for rule in plain if "configmaps" in rule["resources"]]
