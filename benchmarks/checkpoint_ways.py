"""Four ways to save and load the same model, each timed by the same clock.

Every function runs in a fork of its own, on every process of its gang, and writes its seconds into
`case.seconds`. What was loaded is handed back tensor by tensor, to be compared with the original.
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import fully_shard
from transformers import LlamaForCausalLM

from curriculum_api.run import PhaseRun
from curriculum_api.wire import Strategy
from curriculum_trainer import checkpoint, sharding, weights, zero
from curriculum_trainer.begin import Work
from curriculum_trainer.collective import Place
from curriculum_trainer.optimizer import MOMENTS
from curriculum_trainer.precision import Device
from curriculum_trainer.result import Reached
from curriculum_trainer.saving import Saver
from curriculum_trainer.sharding import Sharding
from curriculum_trainer.weights import Take

DEVICE = Device(kind="cpu", index=0, backend="gloo", reason="")

Figures = dict[str, float]
"""Seconds or bytes by row of the table."""

State = dict[str, torch.Tensor]

Loaded = Callable[[], Iterator[tuple[str, torch.Tensor]]]
"""What was loaded: every weight by its name, every moment by `key.name`, in full."""


class Scores(torch.nn.Module):  # type: ignore[misc]
    """What a `Sharding` wants around a model."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Of no interest here."""
        return self.decoder(tokens).logits


@dataclass
class Case:
    """The model that all save, with its moments, and where."""

    config: Any
    weights: State
    moments: dict[str, State]
    root: Path
    seconds: Figures = field(default_factory=dict)

    def decoder(self, *, filled: bool) -> Any:
        """A model of its own, with the weights or with zeros."""
        with torch.device("meta"):
            made = LlamaForCausalLM(self.config)
        made.to_empty(device="cpu")
        made.model.rotary_emb = type(made.model.rotary_emb)(self.config)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                parameter.copy_(self.weights[name]) if filled else parameter.zero_()
        return made

    def optimizer(self, decoder: Any, *, filled: bool) -> torch.optim.AdamW:
        """Its AdamW, with the moments or with zeros."""
        made = torch.optim.AdamW(decoder.parameters(), lr=0.0)
        _allocate(made, decoder.parameters())
        for name, parameter in decoder.named_parameters():
            for key in MOMENTS:
                if filled:
                    made.state[parameter][key].copy_(self.moments[key][name])
        return made

    def run(self, strategy: Strategy, processes: int) -> PhaseRun:
        """A phase of this model, for the trainer's own code."""
        return PhaseRun.model_validate({
            "namespace": "lab", "curriculum": "bench", "curriculum_uid": "uid", "phase": "bench",
            "attempt": 1, "objective": "Pretrain", "model": {"config": self.config.to_dict()},
            "tokenizer": "tokenizer", "data_dir": str(self.root), "checkpoint_path": "ours",
            "checkpoints_dir": str(self.root), "tokens": 64, "context_length": 64,
            "global_batch_tokens": 64 * processes, "precision": "FP32", "strategy": strategy,
            "nodes": 1, "processes_per_node": processes, "accelerator_class": "cpu",
            "allowed_precisions": ["FP32"], "optimizer": {"learning_rate": 1e-3},
            "data": [{"source": "none", "weight": 1}], "checkpoint": {"keep_last": 1},
        })  # fmt: skip

    @contextlib.contextmanager
    def timed(self, row: str) -> Iterator[None]:
        """Add what is done inside to a row, from when every process is there until all are done."""
        dist.barrier()
        began = time.perf_counter()
        yield
        dist.barrier()
        self.seconds[row] = time.perf_counter() - began


def our_save(case: Case) -> None:
    """Copy to host memory, write in a thread, twice: the second finds the memory there."""
    run = case.run(Strategy.DDP, 1)
    shards = _sharded(case.decoder(filled=True), run)
    for key in MOMENTS:
        for name, _ in shards.names():
            shards.set_moment(name, key, case.moments[key][name])
    unused: Any = None
    work = Work(
        run=run, place=Place(0, 0, 1), device=DEVICE, layout=unused, mixture=unused,
        sharding=shards, objective=unused, model_config=case.config, config_digest="",
        evaluation=None,
    )  # fmt: skip
    reached = Reached()
    saver = Saver(work, reached, say=lambda _: None)
    for step, stall in ((1, "stall, first"), (2, "stall")):
        reached.step = step
        began = time.perf_counter()
        with case.timed(stall):
            saver.save()
        saver.finish()
        case.seconds["save"] = time.perf_counter() - began


def our_load(case: Case) -> Loaded:
    """Verify every digest, then fill the model and its moments."""
    return _our_load(case, Strategy.DDP, "load")


def our_convert(case: Case) -> Loaded:
    """The same load: the format knows no layout."""
    return _our_load(case, Strategy.ZERO3, "convert")


def _our_load(case: Case, strategy: Strategy, row: str) -> Loaded:
    run = case.run(strategy, dist.get_world_size())
    decoder = case.decoder(filled=False)
    folder = case.root / "ours" / "step-00000002"
    with case.timed("verify and weights"):
        if dist.get_rank() == 0:
            assert checkpoint.newest(folder.parent).folder == folder
        dist.barrier()
        weights.give(decoder, partial(checkpoint.load_weights, decoder, folder))
    shards = _sharded(decoder, run)
    with case.timed(row):
        checkpoint.load_moments(shards, folder, optimizer_steps=2)
    case.seconds[row] += case.seconds.pop("verify and weights")
    return lambda: _state_of(shards)


def _sharded(decoder: Any, run: PhaseRun) -> Sharding:
    """The decoder with the values that it has."""
    values = {name: parameter.data for name, parameter in decoder.named_parameters()}

    def fill(take: Take) -> None:
        for name, value in values.items():
            take(name, value)

    return sharding.shard(Scores(decoder), run, device=DEVICE, passes=1, fill=fill)


def torch_save(case: Case) -> None:
    """One file by pickle; nothing is flushed and nothing is checked."""
    decoder = case.decoder(filled=True)
    optimizer = case.optimizer(decoder, filled=True)
    with case.timed("save"):
        state = {"model": decoder.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, case.root / "torch.pt")
    case.seconds["stall"] = case.seconds["save"]


def torch_load(case: Case) -> Loaded:
    """Read it whole, then copy."""
    decoder = case.decoder(filled=False)
    optimizer = case.optimizer(decoder, filled=False)
    with case.timed("load"):
        state = torch.load(case.root / "torch.pt", weights_only=True)
        decoder.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    return lambda: _state_of_optimizer(decoder, optimizer)


def torch_convert(case: Case) -> Loaded:
    """Both processes read it whole; the trainer's setters give each its part."""
    decoder = case.decoder(filled=False)
    names = [name for name, _ in decoder.named_parameters()]
    with case.timed("read"):
        state = torch.load(case.root / "torch.pt", weights_only=True, mmap=True)
        decoder.load_state_dict(state["model"])
    run = case.run(Strategy.ZERO3, dist.get_world_size())
    shards = _sharded(decoder, run)
    with case.timed("convert"):
        for number, name in enumerate(names):
            for key in MOMENTS:
                shards.set_moment(name, key, state["optimizer"]["state"][number][key])
    case.seconds["convert"] += case.seconds.pop("read")
    return lambda: _state_of(shards)


def dcp_save(case: Case) -> None:
    """torch.distributed.checkpoint; it flushes, and checks nothing."""
    decoder = case.decoder(filled=True)
    optimizer = case.optimizer(decoder, filled=True)
    with case.timed("save"):
        model, moments = get_state_dict(decoder, optimizer)
        dcp.save({"model": model, "optimizer": moments}, checkpoint_id=case.root / "dcp")
    # one stager for both, so that the second finds its memory there
    stager = DefaultStager(StagingOptions(False, False, False, False))
    for stall in ("stall, first", "stall"):
        with case.timed(stall):
            model, moments = get_state_dict(decoder, optimizer)
            under_way: Any = dcp.async_save(
                {"model": model, "optimizer": moments},
                checkpoint_id=case.root / "dcp",
                async_stager=stager,
            )
        under_way.result()


def dcp_load(case: Case) -> Loaded:
    """Read in place."""
    decoder = case.decoder(filled=False)
    return _dcp_load(case, decoder, "load")


def dcp_convert(case: Case) -> Loaded:
    """Read into FSDP2, which is torch's own equal of ZeRO-3."""
    decoder = case.decoder(filled=False)
    for layer in decoder.model.layers:
        fully_shard(layer)
    fully_shard(decoder)
    return _dcp_load(case, decoder, "convert")


def _dcp_load(case: Case, decoder: Any, row: str) -> Loaded:
    optimizer = case.optimizer(decoder, filled=False)
    with case.timed(row):
        model, moments = get_state_dict(decoder, optimizer)
        state = {"model": model, "optimizer": moments}
        dcp.load(state, checkpoint_id=case.root / "dcp")
        set_state_dict(
            decoder, optimizer, model_state_dict=model, optim_state_dict=moments,
            options=StateDictOptions(),
        )  # fmt: skip
    return lambda: _state_of_optimizer(decoder, optimizer)


def deepspeed_save(case: Case) -> None:
    """ZeRO-3 on one process: a universal folder made of stage 0 to 2 is not found by stage 3."""
    engine = _engine(case, universal=False)
    with case.timed("save"):
        engine.save_checkpoint(str(case.root / "deepspeed"), tag="step")
    case.seconds["stall"] = case.seconds["save"]


def deepspeed_load(case: Case) -> Loaded:
    """Back into ZeRO-3 on one process."""
    engine = _engine(case, universal=False, filled=False)
    with case.timed("load"):
        engine.load_checkpoint(str(case.root / "deepspeed"), tag="step")
    return lambda: _state_of_engine(engine)


def deepspeed_convert(case: Case) -> Loaded:
    """ds_to_universal on one process, then load_universal on two."""
    from deepspeed.checkpoint import ds_to_universal

    engine = _engine(case, universal=True, filled=False)
    folder = case.root / "deepspeed"
    with case.timed("convert"):
        if dist.get_rank() == 0:
            ds_to_universal.main(
                argparse.Namespace(
                    input_folder=str(folder / "step"), output_folder=str(folder / "universal"),
                    num_extract_workers=1, num_merge_workers=1, keep_temp_folder=False,
                    strict=True, inject_missing_state=False,
                )
            )  # fmt: skip
        dist.barrier()
        engine.load_checkpoint(str(folder), tag="universal")
    return lambda: _state_of_engine(engine)


def _engine(case: Case, *, universal: bool, filled: bool = True) -> Any:
    deepspeed = zero.deepspeed_on("cpu")
    deepspeed.init_distributed("gloo", dist_init_required=False, verbose=False)
    decoder = case.decoder(filled=filled)
    engine, optimizer, _, _ = deepspeed.initialize(
        model=decoder,
        optimizer=torch.optim.AdamW(decoder.parameters(), lr=0.0),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {"stage": 3},
            "zero_allow_untested_optimizer": True,
            "checkpoint": {"load_universal": universal},
        },
    )
    _allocate(optimizer.optimizer, optimizer.fp32_partitioned_groups_flat)
    if filled:
        for name, parameter in decoder.named_parameters():
            for key in MOMENTS:
                part, _ = optimizer._get_fp32_opt_state_partition(
                    parameter, release_swap_buffers=False, optim_state_key=key
                )
                part.copy_(case.moments[key][name].flatten())
    return engine


def _allocate(optimizer: Any, parameters: Iterable[torch.Tensor]) -> None:
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.tensor(0.0),
            **{key: torch.zeros_like(parameter) for key in MOMENTS},
        }


def _state_of(shards: Sharding) -> Iterator[tuple[str, torch.Tensor]]:
    for name, _ in shards.names():
        yield name, shards.weight(name)
        for key in MOMENTS:
            yield f"{key}.{name}", shards.moment(name, key)


def _state_of_optimizer(decoder: Any, optimizer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in decoder.named_parameters():
        yield name, _whole(parameter.detach())
        for key in MOMENTS:
            yield f"{key}.{name}", _whole(optimizer.state[parameter][key])


def _whole(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _state_of_engine(engine: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in engine.module.named_parameters():
        yield name, engine.optimizer.get_full_hp_param(parameter)
        for key in MOMENTS:
            yield f"{key}.{name}", engine.optimizer.get_full_hp_param(parameter, key)


@dataclass(frozen=True)
class Way:
    """One of the four."""

    name: str
    folder: str
    """What it leaves below the root."""

    save: Callable[[Case], None]
    load: Callable[[Case], Loaded]
    convert: Callable[[Case], Loaded]
    note: str


WAYS = (
    Way("ours", "ours", our_save, our_load, our_convert, "fsync, sha256, verified before a load"),
    Way("torch.save", "torch.pt", torch_save, torch_load, torch_convert, "no fsync, no digest"),
    Way("DCP", "dcp", dcp_save, dcp_load, dcp_convert, "fsync, no digest; converts to FSDP2"),
    Way(
        "DeepSpeed",
        "deepspeed",
        deepspeed_save,
        deepspeed_load,
        deepspeed_convert,
        "no fsync, no digest; ZeRO-3 on both sides",
    ),
)
