"""The rules of v1alpha1 that a schema cannot say, in CEL, each with its message.

The models attach them where they apply. A rule sits at the lowest level that sees all it needs:
one at the root runs on status writes too, and were it made stricter later, the operator could no
longer report on objects that are already there. At the root stand only what needs `metadata` (the
length rule, never to be made stricter) and the transition rules, which a status write cannot
break because it leaves the spec as it is.
"""

from typing import Final

from curriculum_api.wire import Rule

MAX_NAMES: Final = 46
"""Most characters that a curriculum's and a phase's name have together.

The longest thing named after both is the pod `<curriculum>-<phase>-<attempt>-worker-<index>`: the
training-operator makes a Service of that name, so it must be a DNS label of 63 characters. Two
hyphens, an attempt of 3 digits, `-worker-` (8) and an index of 4 digits leave 46. The other suffix,
`-verify` on the attempt's name, is shorter, and a Job's pods cut their own names.
"""

NAME: Final = Rule(
    "self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "`metadata.name` must be a DNS-1035 label, because labels and Services are named after it:"
    " use at most 63 of a-z, 0-9 and -, first a letter, last not -",
)

NODES: Final = Rule(
    "self >= 1", "`nodes` must be at least 1: give the number of nodes that the phase runs on"
)
TOKENS: Final = Rule(
    "self >= 1", "`tokens` must be at least 1: give the tokens to train on, or remove the phase"
)

SOME_PHASE: Final = Rule("self.size() >= 1", "`phases` must not be empty: add at least one phase")
UNIQUE_NAMES: Final = Rule(
    "self.all(p, self.exists_one(q, q.name == p.name))",
    "`phases[].name` must be unique: rename one of the phases that share a name",
)

MODEL: Final = (
    Rule(
        "has(self.preset) || has(self.config)",
        "`model` must have `preset` or `config`: name a built-in model, or give a Hugging Face"
        " configuration",
    ),
    Rule(
        "!(has(self.preset) && has(self.config))",
        "`model` must not have both `preset` and `config`: remove one of them",
    ),
)

PHASE: Final = (
    Rule(
        "self.sequenceParallel < 1 || self.contextLength % self.sequenceParallel == 0",
        "`contextLength` must be a multiple of `sequenceParallel`, whose processes share each"
        " sequence evenly: change one of the two",
        at=".contextLength",
    ),
    Rule(
        "self.sequenceParallel <= 1 || self.strategy in ['ZeRO1', 'ZeRO2', 'ZeRO3']",
        "`sequenceParallel` above 1 needs DeepSpeed: set `strategy` to ZeRO1, ZeRO2 or ZeRO3, or"
        " `sequenceParallel` to 1",
        at=".sequenceParallel",
    ),
    Rule(
        "!has(self.gpusPerNode) || self.sequenceParallel < 1"
        " || (self.nodes * self.gpusPerNode) % self.sequenceParallel == 0",
        "`sequenceParallel` must divide `nodes` times `gpusPerNode`, the number of processes:"
        " change one of the three",
        at=".sequenceParallel",
    ),
    Rule(
        "!has(self.globalBatchTokens) || self.contextLength < 1"
        " || self.globalBatchTokens % self.contextLength == 0",
        "`globalBatchTokens` must be a multiple of `contextLength`, because a step takes whole"
        " sequences: round it, or leave it out",
        at=".globalBatchTokens",
    ),
    Rule(
        "self.data.all(d, !has(d.contextLength) || d.contextLength <= self.contextLength)",
        "`data[].contextLength` must not be above the phase's `contextLength`: lower it, or leave"
        " it out",
        at=".data",
    ),
    Rule(
        "!has(self.gate) || has(self.evaluation)",
        "`gate` needs `evaluation`, whose figures it looks at: add one, or remove the gate",
        at=".gate",
    ),
    Rule(
        "!has(self.gate) || !has(self.gate.minNeedle) || !has(self.evaluation)"
        " || self.evaluation.needles >= 1",
        "`gate.minNeedle` needs `evaluation.needles` of at least 1: ask some, or remove it",
        at=".gate.minNeedle",
    ),
    Rule(
        "!has(self.rope) || !has(self.rope.scaling) || self.rope.scaling == 'None'"
        " || has(self.rope.factor)",
        "`rope.scaling` Linear and YaRN need `rope.factor`, the new context over the old: add it",
        at=".rope",
    ),
    Rule(
        "!self.memory.offloadActivations || self.memory.activationCheckpointing",
        "`memory.offloadActivations` keeps what `memory.activationCheckpointing` keeps: set both",
        at=".memory",
    ),
    Rule(
        "!self.memory.offloadOptimizer || self.strategy in ['ZeRO1', 'ZeRO2', 'ZeRO3']",
        "`memory.offloadOptimizer` needs DeepSpeed: set `strategy` to ZeRO1, ZeRO2 or ZeRO3, or"
        " remove it",
        at=".memory",
    ),
    Rule(
        "!self.memory.offloadParameters || self.strategy == 'ZeRO3'",
        "`memory.offloadParameters` needs `strategy` ZeRO3: set it, or remove it",
        at=".memory",
    ),
    Rule(
        "!(self.precision in ['MXFP8', 'NVFP4']) || !(self.acceleratorClass.endsWith('-sm120')"
        " || self.acceleratorClass.endsWith('-sm121'))",
        "`precision` must not be MXFP8 or NVFP4 on sm_120 and sm_121, which have no kernels to"
        " train in them: use BF16, or an `acceleratorClass` such as b200-sm100",
        at=".precision",
    ),
)

_STARTED: Final = (
    "has(oldSelf.status) && has(oldSelf.status.phases)"
    " && oldSelf.status.phases.exists(s, has(s.attempts) && s.attempts > 0)"
)
"""A phase has started once an attempt number was taken for it, whatever became of the attempt."""


def _frozen(field: str) -> Rule:
    """The rule that freezes one field of the spec from the first attempt on."""
    return Rule(
        f"!({_STARTED}) || self.spec.{field} == oldSelf.spec.{field}",
        f"`{field}` must not change once a phase has started, because what was trained depends on"
        " it: put the old value back, or create a new curriculum",
        at=f".spec.{field}",
    )


def _started_phases(places: int) -> Rule:
    """The rule that freezes the phases that have started, and their places.

    The places are a literal list, because a CEL comprehension gives a list's items without their
    indices, and the macros that give both are newer than the oldest server that is supported.
    """
    indices = ", ".join(str(place) for place in range(places))
    return Rule(
        "!has(oldSelf.status) || !has(oldSelf.status.phases)"
        f" || [{indices}].all(i, i >= oldSelf.spec.phases.size()"
        " || !oldSelf.status.phases.exists(s, s.name == oldSelf.spec.phases[i].name"
        " && has(s.attempts) && s.attempts > 0)"
        " || (i < self.spec.phases.size() && self.spec.phases[i] == oldSelf.spec.phases[i]))",
        "`phases` that have started must keep their content and their place, limits such as"
        " `maxAttempts` included: put them back, change only later phases, or create a new"
        " curriculum",
        at=".spec.phases",
    )


def curriculum(max_phases: int) -> tuple[Rule, ...]:
    """The rules of the whole object."""
    return (
        NAME,
        Rule(
            f"self.spec.phases.all(p, self.metadata.name.size() + p.name.size() <= {MAX_NAMES})",
            f"`metadata.name` and `phases[].name` must have at most {MAX_NAMES} characters"
            " together, because jobs, pods and Services are named after both: shorten one of them",
        ),
        _started_phases(max_phases),
        _frozen("model"),
        _frozen("tokenizer"),
        _frozen("storage"),
        _frozen("backend"),
        _frozen("seed"),
    )
