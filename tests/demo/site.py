"""From a bare cluster to one on which a curriculum can be applied: volumes, images, the operator.

Used by the demo and by the tests on real kubelets. Must not apply a curriculum itself.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.cluster.cluster import Cluster
from tests.images import build, trainer_environment

ROOT: Final = Path(__file__).resolve().parent.parent.parent
CHART: Final = ROOT / "helm/curriculum-operator"
VALUES: Final = Path(__file__).with_name("values.yaml")

OPERATOR_NAMESPACE: Final = "curriculum-system"
RELEASE: Final = "curriculum-operator"
USER: Final = 65532
"""The user of the images, who writes the checkpoints."""


def add_namespace(
    cluster: Cluster, namespace: str, *, data: Path, checkpoints: Path, environment: Path
) -> None:
    """A namespace with the three claims that a curriculum's pods mount."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    os.chown(checkpoints, USER, USER)
    cluster.apply(_namespace(namespace))
    cluster.volume("corpus", namespace, data, read_only=True)
    cluster.volume("checkpoints", namespace, checkpoints)
    cluster.volume("trainer-environment", namespace, environment, read_only=True)


def load_images(cluster: Cluster, say: Callable[[str], None]) -> None:
    """Build the two images and give them to the nodes."""
    tars = []
    for target in build.REPOSITORY_OF:
        say(f"building image {build.REPOSITORY_OF[target]}")
        tars.append(build.image(cluster, target))
    say("loading the images into the nodes")
    cluster.load_image(*tars)


def install_operator(cluster: Cluster, *options: str) -> None:
    """`helm install`, into a namespace that admits restricted pods only; ready on return."""
    cluster.apply(
        _namespace(OPERATOR_NAMESPACE, {"pod-security.kubernetes.io/enforce": "restricted"})
    )
    cluster.helm(
        *("install", RELEASE, CHART, f"--namespace={OPERATOR_NAMESPACE}"),
        *(f"--values={VALUES}", "--wait", "--timeout=3m", *options),
    )


def cache() -> Path:
    """The user's cache folder of this project."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "curriculum-operator"


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def trainer_environment_folder(say: Callable[[str], None]) -> Path:
    """The torch environment that trainers mount."""
    return trainer_environment.folder(say)


def _namespace(name: str, labels: dict[str, str] | None = None) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels or {}},
    }
