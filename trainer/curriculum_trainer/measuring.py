"""One worker of the probe, `python -m curriculum_trainer.measuring FOLDER FILE`.

It measures everything in step with the others, placed by its environment as a training process is;
the leading one writes the file.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from curriculum_api.calibration_figures import Figures
from curriculum_api.run import PhaseRun
from curriculum_trainer import (
    collective,
    machine,
    measure,
    measure_together,
    processes,
    synthetic,
    train,  # noqa: F401
)
from curriculum_trainer.measure import Sizes
from curriculum_trainer.precision import Device

BRIEF = Sizes(
    seconds=0.01,
    rounds=2,
    tokens=32,
    widths=(16, 32),
    attention_tokens=(16, 32),
    blocks=((64, 8), (64, 64)),
    document=8,
    loss=(16, 32, 8),
    held=(64, 1, 16),
    update_width=64,
    side=64,
    copy_bytes=1 << 16,
    collective_bytes=1 << 12,
    step=(64, 1, 2),
    file_bytes=1 << 16,
)
"""To see that it runs; its figures mean nothing."""


def main(arguments: Sequence[str]) -> None:
    """Join, measure, tell: FOLDER, the file to tell in, and perhaps --brief."""
    folder, told = Path(arguments[0]), Path(arguments[1])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    place = collective.place()
    device = collective.device(place)
    collective.join(device, place)
    sizes = BRIEF if "--brief" in arguments[2:] else Sizes()
    found = _figures(device, sizes, folder, leads=place.leads)
    collective.leave()
    if place.leads:
        told.write_text(found.model_dump_json(by_alias=True))


def _figures(device: Device, sizes: Sizes, folder: Path, *, leads: bool) -> Figures:
    ranks = dist.get_world_size()
    run = synthetic.phase(folder, synthetic.Sizes(), devices=ranks)
    # first, while nothing else has left its traces
    process_bytes, engine_bytes, held = measure.held(device, sizes, run)
    memory_bytes = _memory_bytes(device, ranks)
    # in turn, and again: a machine that changes its speed meanwhile does so under every figure
    rates = measure.middle([_rates(device, sizes, run) for _ in range(sizes.rounds)])
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        storage = measure.storage(Path(scratch), sizes) if leads else 1.0
    cuda, capability = device.kind == "cuda", device.capability
    return Figures(
        device="cuda" if cuda else "cpu",
        device_name=torch.cuda.get_device_name(device.index) if cuda else "CPU",
        capability=".".join(map(str, capability)) if capability else None,
        processes=ranks,
        threads=torch.get_num_threads(),
        storage=storage,
        process_bytes=process_bytes,
        engine_bytes=engine_bytes,
        held=held,
        memory_bytes=memory_bytes,
        **rates,
    )


def _rates(device: Device, sizes: Sizes, run: PhaseRun) -> dict[str, Any]:
    """One round of all but the disk, by the names of `Figures`."""
    cpu = device.kind == "cpu"
    copied, fastest_copy = measure.copying(device, sizes)
    return {
        "products": tuple(measure.products(device, sizes)),
        "attention": tuple(measure.attention(device, sizes)),
        "trials": tuple(measure.trials(device, sizes)) if cpu else (),
        "loss": measure.loss(device, sizes) if cpu else None,
        "copied": copied,
        "fastest_copy": fastest_copy,
        "updates": tuple(measure.updates(device, sizes, run)),
        "steps": tuple(measure_together.steps(device, sizes, run)) if cpu else (),
        **measure_together.collectives(device, sizes),
    }


def _memory_bytes(device: Device, ranks: int) -> int:
    """What one process can have: a GPU's own, or its share of what the machine has left."""
    if device.kind == "cuda":
        return int(torch.cuda.mem_get_info(device.index)[1])
    return (machine.available_bytes() or 0) // ranks + machine.resident_bytes()


if __name__ == "__main__":
    processes.die_with_launcher()
    main(sys.argv[1:])
