"""One cluster with the operator on it, for all tests of this folder."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.cluster.cluster import Cluster
from tests.demo import corpus, site
from tests.e2e.watching import Site
from tests.images import build

LOGS = site.ROOT / "build/e2e"

# Short patience: what takes minutes in a real cluster is waited for here.
SETTINGS = {
    "CURRICULUM_NODE_GRACE_SECONDS": 10,
    # a first step was in the status 15 s after it was done
    "CURRICULUM_PROGRESS_SECONDS": 2,
    # three failures in a row paused a phase for 70 s
    "CURRICULUM_RETRY_BASE_SECONDS": 2,
}


@pytest.fixture(scope="session")
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The cluster is up and the operator installed; taken down at the end, logs kept on failure."""
    cluster = Cluster(say=print)
    cluster.build()
    cache = site.cache()
    corpus.prepare(cache / "demo-data", print)
    environment = site.trainer_environment_folder(print)
    tars = [build.image(cluster, target) for target in build.REPOSITORY_OF]
    cluster.up(images=tars)
    try:
        site.install_operator(cluster, *_settings(SETTINGS))
        # Pods run as another user, who must be able to walk into it.
        checkpoints: Path = site.fresh(LOGS / "checkpoints")
        yield Site(cluster, cache / "demo-data", checkpoints, environment)
        if request.session.testsfailed:
            cluster.dump_logs(LOGS / "logs")
    finally:
        cluster.down()


def _settings(variables: Mapping[str, int]) -> Iterator[str]:
    """helm's options that give the operator these variables."""
    for number, (name, value) in enumerate(variables.items()):
        yield f"--set=extraEnv[{number}].name={name}"
        yield f"--set-string=extraEnv[{number}].value={value}"
