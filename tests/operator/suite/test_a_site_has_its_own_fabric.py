"""A site's ConfigMap of fabric profiles, as its administrators write and mend it."""

from dataclasses import replace

from curriculum_operator import kinds, names
from curriculum_operator.settings import from_environment

from .backends import ON_BOTH, scenario
from .documents import NAMESPACE, SPARK, curriculum, phase
from .stage import Stage

HOME = "default"
PROFILE = "about: ours\n---\nNCCL_IB_HCA={}\n"


def config_map(text: str, *, name: str = "site", namespace: str = HOME) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {"gb10-switch.env.j2": text, "README": "how we cable"},
    }


async def write(stage: Stage, text: str) -> None:
    """Change the profile as an administrator does."""
    raw = await stage.admin.get(kinds.CONFIGMAPS, "site", HOME)
    await stage.admin.replace(kinds.CONFIGMAPS, {**raw, "data": config_map(text)["data"]})


async def job(stage: Stage, name: str) -> tuple[str, str]:
    """The HCAs that a job's pods are told, and the digest of their fabric."""
    raw = await stage.admin.get(kinds.PYTORCHJOBS, name, NAMESPACE)
    template = raw["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    environment = {v["name"]: v.get("value") for v in template["spec"]["containers"][0]["env"]}
    digest = raw["metadata"]["annotations"][names.FABRIC_DIGEST_ANNOTATION]
    return environment["NCCL_IB_HCA"], digest


def test_the_config_map_is_looked_for_in_the_operators_own_namespace() -> None:
    named = {"CURRICULUM_FABRIC_PROFILES": "ours", "POD_NAMESPACE": "curriculum-system"}
    assert from_environment(named).site_profiles == ("curriculum-system", "ours")
    assert from_environment({}).site_profiles is None


@scenario(*ON_BOTH)
async def test_a_broken_profile_stalls_and_a_mended_one_is_seen_at_once(stage: Stage) -> None:
    await stage.submit(config_map("no profile"))
    # What users may write is not read, whatever its name.
    await stage.submit(config_map(PROFILE.format("theirs"), namespace=NAMESPACE))
    await stage.submit(config_map(PROFILE.format("another"), name="other"))
    stage.operator(settings=replace(stage.tempo.settings, fabric_profiles="site"))
    await stage.submit(curriculum("slm", phase("one"), phase("two")))
    stalled = await stage.until_condition("Stalled", names.INVALID_SPEC)
    assert stalled["message"] == (
        f'phase "one": accelerator class "{SPARK}": fabric profile "gb10-switch":'
        ' has no line "---" between its head and its template'
    )
    assert stage.live_jobs() == []

    await write(stage, PROFILE.format("mlx5_1"))
    await stage.until_state("Running", "one")
    before = await job(stage, "slm-one-1")
    await write(stage, PROFILE.format("mlx5_2"))
    await stage.until_ended()

    after = await job(stage, "slm-two-1")
    assert (before[0], after[0]) == ("mlx5_1", "mlx5_2")
    assert before[1] != after[1]
    assert before == await job(stage, "slm-one-1")
    assert stage.phase("one")["attempts"] == 1
