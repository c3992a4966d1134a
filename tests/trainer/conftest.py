"""One prepared corpus for all trainer tests, and the heavy imports, once, before any fork.

The training processes are forks of this one, so they start in no time. They run on the CPU even
where there is a GPU, because CUDA does not survive a fork.
"""

import importlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

with warnings.catch_warnings():
    # what torch and DeepSpeed deprecate in each other is not ours to mend
    warnings.simplefilter("ignore")
    import torch

    import curriculum_trainer.worker  # noqa: F401
    from curriculum_trainer import zero

    zero.deepspeed_on("cpu")
    # what training imports on its way, and would import again in every fork
    for late in (
        "deepspeed.module_inject.auto_ep_layer",
        "deepspeed.runtime.superoffload.superoffload_stage3",
        "tensorboardX.event_file_writer",
        "tensorboardX.proto.event_pb2",
        "torch._subclasses.schema_check_mode",
    ):
        importlib.import_module(late)
    # a fork of a process whose torch has computed with several threads hangs at its first such work
    torch.set_num_threads(1)

from curriculum_trainer.prepare import Options

from .corpus import make_corpus
from .phases import Phases


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A warning of a library within a training process must not end it."""
    for item in items:
        if item.get_closest_marker("trainer"):
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: tokenizer, text, short documents, preference pairs."""
    return make_corpus(tmp_path_factory.mktemp("data"))


@pytest.fixture
def options(data: Path, tmp_path: Path) -> Callable[..., Options]:
    """Options of `prepare` with the corpus's tokenizer and an output of the test's own."""

    def make(*inputs: Path | str, output: str = "made", **changes: Any) -> Options:
        values: dict[str, Any] = {
            "tokenizer": str(data / "tokenizer"),
            "output": tmp_path / "out" / output,
        }
        return Options(inputs=tuple(map(str, inputs)), **(values | changes))

    return make


@pytest.fixture
def phases(data: Path, tmp_path: Path) -> Phases:
    """Runs over the corpus, with a checkpoint folder of the test's own."""
    return Phases(data=data, root=tmp_path)


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Phases:
    """A finished phase "first" of two steps under DDP; read it, do not write into it."""
    made = Phases(data=data, root=tmp_path_factory.mktemp("trained"))
    run = made.run("first", steps=2)
    ended = made.launch(run)
    assert ended.outcome == "Succeeded", ended.message
    return made


@pytest.fixture
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ZeRO-3 partition small parameters too: it would keep them whole until the update."""
    settings = zero._settings

    def partitioned(*given: Any, **named: Any) -> dict[str, Any]:
        made = settings(*given, **named)
        made["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return made

    monkeypatch.setattr(zero, "_settings", partitioned)
