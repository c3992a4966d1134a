"""The peer of `throughput.py`: the Hugging Face Trainer on the same model and batch shape.

Runs in an environment of its own and knows nothing of this project: a JSON file says what to
train, a line of JSON per step says that it is done.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)


class Rows(torch.utils.data.Dataset):  # type: ignore[misc]  # torch is untyped here
    """Rows of one length, cut from a file of tokens."""

    def __init__(self, file: Path, *, context: int) -> None:
        tokens = np.fromfile(file, dtype="<u2")
        self._rows = tokens[: len(tokens) // context * context].reshape(-1, context)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        row = torch.from_numpy(self._rows[place].astype(np.int64))
        return {"input_ids": row, "labels": row}


class Tell(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """A line per step."""

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        print(json.dumps({"step": state.global_step}), flush=True)


def main() -> None:
    """Train so many steps."""
    told = json.loads(Path(sys.argv[1]).read_text())
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**told["model"]), dtype=torch.float32, attn_implementation="sdpa"
    )
    arguments = TrainingArguments(
        output_dir=told["output"],
        max_steps=told["steps"],
        per_device_train_batch_size=told["microBatch"],
        gradient_accumulation_steps=told["passes"],
        learning_rate=told["learningRate"],
        lr_scheduler_type="constant",
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=0.1,
        max_grad_norm=1.0,
        use_cpu=True,
        dataloader_pin_memory=False,
        # what only slows the peer down
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Rows(Path(told["tokens"]), context=told["context"]),
        data_collator=default_data_collator,
        callbacks=[Tell()],
    )
    profiled = profile(activities=[ProfilerActivity.CPU]) if told["profile"] else nullcontext()
    with profiled as kept:
        trainer.train()
    if kept is not None:
        print(kept.key_averages().table(sort_by="self_cpu_time_total", row_limit=told["profile"]))


if __name__ == "__main__":
    main()
