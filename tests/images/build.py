"""Builds the operator's and the trainer's image from the repository's Dockerfile.

Unchanged steps come from earlier builds, so that an unchanged tree costs seconds. Must not start
a cluster: it only asks one to build.
"""

from pathlib import Path
from typing import Final

from tests.cluster.cluster import Cluster

ROOT: Final = Path(__file__).resolve().parent.parent.parent
BASE: Final = "localhost/base:1"
REPOSITORY_OF: Final = {
    "operator": "localhost/curriculum-operator",
    "trainer-code": "localhost/curriculum-trainer",
}
TAG: Final = "test"
"""The tag stays, the content moves: a node takes an archive whose digest it does not have."""


def image(cluster: Cluster, target: str) -> Path:
    """The docker-archive of one target of the Dockerfile."""
    return cluster.build_image(
        ROOT / "Dockerfile",
        tag=f"{REPOSITORY_OF[target]}:{TAG}",
        target=target,
        build_args={"BASE": BASE},
    )
