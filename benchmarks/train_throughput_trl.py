"""The peer's side of train_throughput.py; runs in the environment that has TRL."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl import RewardConfig, RewardTrainer


class Clock(TrainerCallback):
    """Wall and CPU seconds from the first step's beginning to the last one's end."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.begin = self.cpu = self.seconds = self.cpu_seconds = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.begin, self.cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self.begin
        self.cpu_seconds = time.process_time() - self.cpu

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForSequenceClassification.from_pretrained(
        job["model"], num_labels=1, dtype=torch.bfloat16
    )
    rows = [
        {
            "prompt": r["prompt"],
            "chosen": [{"role": "assistant", "content": r["chosen"]}],
            "rejected": [{"role": "assistant", "content": r["rejected"]}],
        }
        for r in job["pairs"]
    ]
    options: dict[str, Any] = {}
    if not job["checkpointing"]:
        options["gradient_checkpointing"] = False
    if job["sequential"]:
        options["train_sampling_strategy"] = "sequential"
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        config = RewardConfig(
            output_dir=scratch,
            per_device_train_batch_size=job["batch"],
            num_train_epochs=1,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            **options,
        )
        torch.manual_seed(job["seed"])
        trainer = RewardTrainer(
            model=model,
            args=config,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            peft_config=LoraConfig(
                task_type="SEQ_CLS",
                r=8,
                lora_alpha=16,
                target_modules="all-linear",
                modules_to_save=["score"],
            ),
            callbacks=[clock],
        )
        assert len(trainer.train_dataset) == len(rows), "TRL dropped pairs"
        trainer.train()
    out = {"seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds, "losses": clock.losses}
    out |= {"pairs": len(rows)}
    Path(job["out"]).write_text(json.dumps(out))


if __name__ == "__main__":
    main()
