"""The demo's curriculum on real kubelets, while its operator is killed in every phase."""

import pytest
from tests.demo import facts
from tests.demo.__main__ import EXAMPLE
from tests.e2e.watching import Site, runs

NAMESPACE = "outlive"
SECONDS = 30 * 60


@pytest.mark.e2e
@pytest.mark.timeout(SECONDS + 600)
def test_four_phases_succeed_though_the_operator_is_killed_in_each(place: Site) -> None:
    """Same end as without, one job per phase, and nothing is left after the deletion."""
    place.namespace(NAMESPACE)
    place.apply(NAMESPACE, EXAMPLE)
    ran_on = []
    for number in range(4):
        what = f"phase {number + 1} runs"
        seen = place.wait(NAMESPACE, "demo", what, runs(number), SECONDS / 4)
        # Now: a worker that is a moment slower than its master is cleaned away at the end.
        ran_on.append(facts.nodes(seen, seen.phases[number]["name"], 1))
        place.kill_operator()
    place.cluster.kubectl(
        *("wait", "--for=condition=Succeeded", "tcur/demo"),
        *(f"--namespace={NAMESPACE}", f"--timeout={SECONDS}s"),
    )

    found = facts.result(place.look(NAMESPACE, "demo"))
    assert facts.problems(found) == []
    assert ran_on == [
        ["spark-1", "spark-2"],
        ["spark-1", "spark-2"],
        ["b200-1"],
        ["b200-1"],
    ]
    assert [phase["attempts"] for phase in found["phases"]] == [1, 1, 1, 1]
    assert place.jobs(NAMESPACE) == [
        "demo-pretrain-1",
        "demo-quality-1",
        "demo-long-context-1",
        "demo-preferences-1",
    ]
    columns = place.cluster.kubectl("get", "tcur", f"--namespace={NAMESPACE}").splitlines()
    assert columns[0].split() == ["NAME", "PHASE", "STATE", "PROGRESS", "ETA", "COST", "AGE"]
    assert "Succeeded" in columns[1]

    place.cluster.kubectl("delete", "tcur/demo", f"--namespace={NAMESPACE}", "--timeout=60s")
    kinds = "pytorchjobs,jobs,pods,configmaps"
    place.cluster.kubectl(
        *("wait", "--for=delete", kinds, "--selector=curriculum.dev/curriculum=demo"),
        *(f"--namespace={NAMESPACE}", "--timeout=180s"),
    )
