"""Curricula that must be taken and curricula that must be refused, for every judge of them.

The same tables are put to the CEL rules offline and to a real API server.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Document = dict[str, Any]
Edit = Callable[[Document], object]

HERE = Path(__file__).parent
WORKED: Document = yaml.safe_load((HERE / "curriculum.yaml").read_text())
PRETRAIN, QUALITY, LONG, ALIGN = range(4)


def worked(*edits: Edit) -> Document:
    """The worked curriculum, edited."""
    document = copy.deepcopy(WORKED)
    for edit in edits:
        edit(document)
    return document


def phase(index: int, **fields: Any) -> Edit:
    """Set fields of one phase."""
    return lambda document: document["spec"]["phases"][index].update(fields)


def spec(**fields: Any) -> Edit:
    """Set fields of the spec."""
    return lambda document: document["spec"].update(fields)


def named(name: str) -> Edit:
    """Set the object's name."""
    return lambda document: document["metadata"].update(name=name)


def phases(change: Callable[[list[Document]], list[Document]]) -> Edit:
    """Replace the phases by what is made of them."""

    def edit(document: Document) -> None:
        document["spec"]["phases"] = change(document["spec"]["phases"])

    return edit


def started(*indices: int) -> Edit:
    """Give a status in which an attempt was taken for these phases, and for no other."""

    def edit(document: Document) -> None:
        document["status"] = {
            "observedGeneration": 1,
            "state": "Running",
            "phases": [
                {"name": one["name"], "state": "Running", "attempts": 1}
                if index in indices
                else {"name": one["name"]}
                for index, one in enumerate(document["spec"]["phases"])
            ],
        }

    return edit


CONFIG = {"model_type": "llama", "hidden_size": 128, "rope_parameters": {"rope_theta": 10000.0}}

TAKEN = [
    pytest.param(worked(), id="the worked example"),
    pytest.param(worked(named("c" * 34)), id="names of 46 characters together"),
    pytest.param(worked(spec(model={"config": CONFIG})), id="a configuration for a preset"),
    pytest.param(worked(spec(model={"preset": "x", "weights": "hf"})), id="weights to start from"),
    pytest.param(worked(phases(lambda p: p[ALIGN:])), id="DPO first, without weights"),
    pytest.param(worked(phase(PRETRAIN, precision="FP8")), id="FP8 on sm_121"),
    pytest.param(worked(phase(LONG, precision="MXFP8")), id="MXFP8 on sm_100"),
    pytest.param(worked(phase(LONG, strategy="ZeRO1")), id="sequence parallelism with ZeRO1"),
    pytest.param(worked(phase(LONG, strategy="ZeRO2")), id="sequence parallelism with ZeRO2"),
    pytest.param(worked(phase(LONG, globalBatchTokens=1048576)), id="a batch of two sequences"),
    pytest.param(
        worked(phases(lambda p: [{**p[PRETRAIN], "name": f"p{n}"} for n in range(16)])),
        id="sixteen phases",
    ),
]

REFUSED = [
    pytest.param(
        worked(spec(phases=[])),
        "`phases` must not be empty: add at least one phase",
        id="no phases",
    ),
    pytest.param(
        worked(phase(QUALITY, name="pretrain")),
        "`phases[].name` must be unique: rename one of the phases that share a name",
        id="two phases of one name",
    ),
    pytest.param(
        worked(named("c" * 35)),
        "`metadata.name` and `phases[].name` must have at most 46 characters together, because"
        " jobs, pods and Services are named after both: shorten one of them",
        id="names of 47 characters together",
    ),
    *(
        pytest.param(
            worked(named(name)),
            "`metadata.name` must be a DNS-1035 label, because labels and Services are named after"
            " it: use at most 63 of a-z, 0-9 and -, first a letter, last not -",
            id=f"an object named {name}",
        )
        for name in ("8b-cpp", "slm.8b")
    ),
    pytest.param(
        worked(phase(PRETRAIN, nodes=0)),
        "`nodes` must be at least 1: give the number of nodes that the phase runs on",
        id="no nodes",
    ),
    pytest.param(
        worked(phase(PRETRAIN, tokens=0)),
        "`tokens` must be at least 1: give the tokens to train on, or remove the phase",
        id="no tokens",
    ),
    pytest.param(
        worked(phase(LONG, contextLength=524289)),
        "`contextLength` must be a multiple of `sequenceParallel`, whose processes share each"
        " sequence evenly: change one of the two",
        id="a context that the sequence-parallel degree does not divide",
    ),
    pytest.param(
        worked(phase(LONG, gpusPerNode=6)),
        "`sequenceParallel` must divide `nodes` times `gpusPerNode`, the number of processes:"
        " change one of the three",
        id="processes that the sequence-parallel degree does not divide",
    ),
    *(
        pytest.param(
            worked(phase(PRETRAIN, precision=precision, acceleratorClass=kind)),
            "`precision` must not be MXFP8 or NVFP4 on sm_120 and sm_121, which have no kernels to"
            " train in them: use BF16, or an `acceleratorClass` such as b200-sm100",
            id=f"{precision} on {kind}",
        )
        for precision in ("NVFP4", "MXFP8")
        for kind in ("gb10-sm121", "rtx6000-sm120")
    ),
    pytest.param(
        worked(spec(model={"weights": "hf"})),
        "`model` must have `preset` or `config`: name a built-in model, or give a Hugging Face"
        " configuration",
        id="neither preset nor config",
    ),
    pytest.param(
        worked(spec(model={"preset": "x", "config": CONFIG})),
        "`model` must not have both `preset` and `config`: remove one of them",
        id="both preset and config",
    ),
    pytest.param(
        worked(phase(LONG, strategy="DDP")),
        "`sequenceParallel` above 1 needs DeepSpeed: set `strategy` to ZeRO1, ZeRO2 or ZeRO3, or"
        " `sequenceParallel` to 1",
        id="sequence parallelism with DDP",
    ),
    pytest.param(
        worked(phase(PRETRAIN, globalBatchTokens=8193)),
        "`globalBatchTokens` must be a multiple of `contextLength`, because a step takes whole"
        " sequences: round it, or leave it out",
        id="a batch of a sequence and a token",
    ),
    pytest.param(
        worked(phase(PRETRAIN, data=[{"source": "long", "contextLength": 8193}])),
        "`data[].contextLength` must not be above the phase's `contextLength`: lower it, or leave"
        " it out",
        id="a source longer than the phase",
    ),
    pytest.param(
        worked(phase(PRETRAIN, gate={"maxPerplexityRise": "0.02"})),
        "`gate` needs `evaluation`, whose figures it looks at: add one, or remove the gate",
        id="a gate that looks at nothing",
    ),
    pytest.param(
        worked(phase(PRETRAIN, evaluation={"source": "held-out"}, gate={"minNeedle": "0.9"})),
        "`gate.minNeedle` needs `evaluation.needles` of at least 1: ask some, or remove it",
        id="a gate on needles that nobody hides",
    ),
    pytest.param(
        worked(phase(LONG, rope={"scaling": "YaRN"})),
        "`rope.scaling` Linear and YaRN need `rope.factor`, the new context over the old: add it",
        id="YaRN without a factor",
    ),
    pytest.param(
        worked(phase(LONG, memory={"offloadActivations": True})),
        "`memory.offloadActivations` keeps what `memory.activationCheckpointing` keeps: set both",
        id="offloaded activations that nothing kept",
    ),
    pytest.param(
        worked(phase(PRETRAIN, memory={"offloadOptimizer": True})),
        "`memory.offloadOptimizer` needs DeepSpeed: set `strategy` to ZeRO1, ZeRO2 or ZeRO3, or"
        " remove it",
        id="an offloaded optimizer with DDP",
    ),
    pytest.param(
        worked(phase(PRETRAIN, memory={"offloadParameters": True})),
        "`memory.offloadParameters` needs `strategy` ZeRO3: set it, or remove it",
        id="offloaded parameters without ZeRO3",
    ),
]

_KEEP_PHASE = (
    "`phases` that have started must keep their content and their place, limits such as"
    " `maxAttempts` included: put them back, change only later phases, or create a new curriculum"
)


def _keep(field: str) -> str:
    return (
        f"`{field}` must not change once a phase has started, because what was trained depends on"
        " it: put the old value back, or create a new curriculum"
    )


_NEW = {**WORKED["spec"]["phases"][QUALITY], "name": "new"}

EDITS_TAKEN = [
    pytest.param(worked(started()), phase(PRETRAIN, tokens=1), id="a phase before the start"),
    pytest.param(
        worked(started()), spec(model={"config": CONFIG}), id="the model before the start"
    ),
    pytest.param(worked(started()), spec(seed=8), id="the seed before the start"),
    pytest.param(worked(started(0)), spec(suspend=True), id="suspend"),
    pytest.param(worked(started(0)), spec(priority=-1), id="priority"),
    pytest.param(worked(started(0)), spec(queueName="research"), id="queueName"),
    pytest.param(worked(started(0)), phase(QUALITY, tokens=1), id="a later phase"),
    pytest.param(worked(started(0)), phases(lambda p: [*p, _NEW]), id="a phase more at the end"),
    pytest.param(
        worked(started(0)), phases(lambda p: [p[0], _NEW, *p[1:]]), id="a phase more in between"
    ),
    pytest.param(worked(started(0)), phases(lambda p: p[:1]), id="later phases removed"),
    pytest.param(worked(started(0)), phases(lambda p: [p[0], *p[:0:-1]]), id="later phases turned"),
    pytest.param(
        worked(started(0)), phase(PRETRAIN, sequenceParallel=1), id="a default written out"
    ),
]

EDITS_REFUSED = [
    pytest.param(worked(started(0)), phase(0, tokens=1), _KEEP_PHASE, id="tokens"),
    pytest.param(worked(started(0)), phase(0, maxAttempts=9), _KEEP_PHASE, id="maxAttempts"),
    pytest.param(worked(started(0)), phase(0, env=[]), _KEEP_PHASE, id="env"),
    pytest.param(worked(started(0)), phase(0, pool="b200-cloud"), _KEEP_PHASE, id="pool"),
    pytest.param(worked(started(0)), phase(0, name="other"), _KEEP_PHASE, id="name"),
    pytest.param(worked(started(0)), phases(lambda p: p[1:]), _KEEP_PHASE, id="removed"),
    pytest.param(worked(started(0)), phases(lambda p: p[::-1]), _KEEP_PHASE, id="moved"),
    pytest.param(
        worked(started(0)), phases(lambda p: [_NEW, *p]), _KEEP_PHASE, id="pushed back by a new one"
    ),
    pytest.param(worked(started(0, 1)), phase(1, tokens=1), _KEEP_PHASE, id="the second's tokens"),
    pytest.param(
        worked(started(0)), spec(model={"preset": "other"}), _keep("model"), id="another preset"
    ),
    pytest.param(
        worked(started(0)), spec(model={"config": CONFIG}), _keep("model"), id="config for preset"
    ),
    pytest.param(
        worked(spec(model={"config": CONFIG}), started(0)),
        spec(model={"config": {**CONFIG, "rope_parameters": {"rope_theta": 500000.0}}}),
        _keep("model"),
        id="a number deep in the configuration",
    ),
    pytest.param(
        worked(started(0)), spec(tokenizer={"path": "other"}), _keep("tokenizer"), id="tokenizer"
    ),
    pytest.param(
        worked(started(0)),
        lambda d: d["spec"]["storage"]["checkpoints"].update(claimName="other"),
        _keep("storage"),
        id="storage",
    ),
    pytest.param(worked(started(0)), spec(seed=8), _keep("seed"), id="seed"),
]
