"""The peer's side of sweep_throughput.py: a plain Hydra, Optuna and Lightning script.

Runs in the environment that has hydra-optuna-sweeper 1.3. It is what a careful user writes: ratings
read from a file, labels by the same formula, all imports once for all trials (Hydra's basic
launcher runs them in one process), tokens once a trial, frozen layers without gradients, batches
padded to their own longest text, all cores for the trial that runs.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.config_store import ConfigStore
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer


@dataclass
class Config:
    """A point of the list, and where everything lies."""

    folder: str
    point: int = 0


ConfigStore.instance().store("peer", node=Config)


class Module(pl.LightningModule):
    """Bradley-Terry over a sequence classifier whose last two layers and head train."""

    def __init__(self, model: Any, learning_rate: float) -> None:
        super().__init__()
        self.model, self.learning_rate = model, learning_rate
        for parameter in model.bert.parameters():
            parameter.requires_grad = False
        for part in (*model.bert.encoder.layer[-2:], model.bert.pooler):
            for parameter in part.parameters():
                parameter.requires_grad = True

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        chosen, rejected = self.model(**batch).logits.squeeze(-1).chunk(2)
        return -torch.nn.functional.logsigmoid(chosen - rejected).mean()

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=0.0)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=10)
        return [optimizer], [{"scheduler": warm, "interval": "step"}]


def labels(data: Any, r: int, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Kept pairs and whether A is preferred (method, sections 2 to 5)."""
    psi_a, psi_b = data["psi_a"], data["psi_b"]
    score = np.abs(psi_a - psi_b) / 2 + gamma * data["relevance"]
    critical = np.argsort(-score, axis=1, kind="stable")[:, :r]
    lead = np.take_along_axis(psi_a - psi_b, critical, axis=1).sum(axis=1)
    return np.flatnonzero(lead), lead > 0


@hydra.main(version_base="1.2", config_path=None, config_name="peer")
def main(config: Config) -> float:
    """One trial; its accuracy on validation pairs."""
    begin = time.perf_counter()
    folder = Path(config.folder)
    job = json.loads((folder / "job.json").read_text())
    point = job["points"][config.point]
    torch.set_num_threads(job["threads"])
    pl.seed_everything(0)
    data = np.load(folder / "ratings.npz")
    kept, a_wins = labels(data, point["r"], point["gamma"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=1)

    def tokens(rows: list[dict[str, str]], side: str) -> list[list[int]]:
        prompts, responses = [r["prompt"] for r in rows], [r[side] for r in rows]
        return tokenizer(prompts, responses, truncation=True, max_length=256)["input_ids"]

    def padded(texts: list[list[int]]) -> dict[str, torch.Tensor]:
        return dict(tokenizer.pad({"input_ids": texts}, return_tensors="pt"))

    rows = job["train"]
    a, b = tokens(rows, "a"), tokens(rows, "b")
    pairs = [(a[i], b[i]) if a_wins[i] else (b[i], a[i]) for i in kept]
    loader = DataLoader(
        pairs,
        batch_size=16,
        shuffle=True,
        collate_fn=lambda batch: padded([p[0] for p in batch] + [p[1] for p in batch]),
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=point["epochs"],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(model, point["learning_rate"]), loader)

    judged = job["validation"]
    sides = {side: tokens(judged, side) for side in "ab"}
    scores = {}
    model.eval()
    with torch.inference_mode():
        for side, texts in sides.items():
            batches = [texts[i : i + 16] for i in range(0, len(texts), 16)]
            scores[side] = torch.cat([model(**padded(x)).logits.squeeze(-1) for x in batches])
    prefers_a = torch.tensor([row["preference"] == "a" for row in judged])
    accuracy = ((scores["a"] > scores["b"]) == prefers_a).double().mean().item()
    with (folder / "peer.jsonl").open("a") as stream:
        seconds = time.perf_counter() - begin
        stream.write(json.dumps({"point": config.point, "value": accuracy, "s": seconds}) + "\n")
    return accuracy


if __name__ == "__main__":
    main()
