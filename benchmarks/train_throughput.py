"""Pairs trained per second beside TRL's RewardTrainer: same pairs, model, LoRA and batch.

The peer lives in an environment of its own:

    python -m venv ../venv-trl
    ../venv-trl/bin/pip install trl==1.16.0 torch==2.13.0 transformers==5.24.0 peft==0.21.2

All steps of one epoch count; loading and tokenising do not. The runs take turns, and what all turns
come to is told, with the ratios of single turns beside it: a machine that slows down for a while
then does so for all. On a machine that others use, --threads 1 and the CPU seconds are the fairer
figures: they do not count waiting for a core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from results_file import ResultsFile

HERE = Path(__file__).resolve().parent
BATCH = 8
DATA = {
    "hh-rlhf harmless": "hh-rlhf/harmless-base-test.jsonl.gz",
    "pku-saferlhf": "pku-saferlhf/pairs-5k.json.gz",
}
MOST_TOKENS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/rmexp").expanduser())
    parser.add_argument("--peer-python", type=Path, default=Path("../venv-trl/bin/python"))
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--worker", choices=["rmexp"], help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        train_here(json.loads(arguments.job.read_text()))
        return
    shared = Path(os.environ.get("RMEXP_SHARED_DATA", HERE.parents[1] / "shared" / "data"))
    with tempfile.TemporaryDirectory() as scratch, ResultsFile("train_throughput") as results:
        folder = Path(scratch)
        model = model_with_head(arguments.cache, folder / "model")
        # Looked for again before each run: the best that the machine gives at any time.
        peaks = [matmul_peak(arguments.threads)]
        results.line(
            f"SmolLM2-135M bf16, LoRA r=8 on all linear layers, {BATCH} pairs a step, "
            f"{arguments.pairs} pairs, {arguments.threads} threads, {arguments.turns} turns"
        )
        for name, file in DATA.items():
            compare(name, shared / file, model, peaks, arguments, folder, results)


def compare(
    name: str,
    file: Path,
    model: Path,
    peaks: list[float],
    arguments: argparse.Namespace,
    folder: Path,
    results: ResultsFile,
) -> None:
    pairs = chosen_pairs(file, model, arguments.pairs)
    job: dict[str, Any] = {"model": str(model), "threads": arguments.threads, "seed": 1}
    job |= {"cache": str(arguments.cache), "folder": str(folder), "batch": BATCH}
    runs = {
        "TRL, its defaults": ("trl", pairs, {"checkpointing": True, "sequential": False}),
        "TRL, best settings": (
            "trl",
            sorted(pairs, key=lambda p: -p["tokens"]),
            {"checkpointing": False, "sequential": True},
        ),
        "rmexp": ("rmexp", pairs, {"shuffle": True}),
        "rmexp, TRL's best order": (
            "rmexp",
            sorted(pairs, key=lambda p: -p["tokens"]),
            {"shuffle": False},
        ),
    }
    turns = []
    for _ in range(arguments.turns):
        one = {}
        for title, (worker, rows, options) in runs.items():
            peaks.append(matmul_peak(arguments.threads))
            one[title] = run(worker, job | options | {"pairs": rows}, arguments.peer_python, folder)
        turns.append(one)
    found = {title: together([one[title] for one in turns]) for title in runs}
    results.line()
    results.line(f"{name}: {sum(p['tokens'] for p in pairs)} tokens, both sides apart")
    results.line(
        f"{'':<26}{'pairs/s':>9}{'pairs/CPU s':>13}{'x defaults':>12}{'x best':>8}  by turn"
    )
    cpu = {title: r["pairs"] / r["cpu_seconds"] for title, r in found.items()}
    for title, r in found.items():
        results.line(
            f"{title:<26}{r['pairs'] / r['seconds']:>9.3f}{cpu[title]:>13.3f}"
            f"{cpu[title] / cpu['TRL, its defaults']:>12.2f}"
            f"{cpu[title] / cpu['TRL, best settings']:>8.2f}  "
            + " ".join(
                f"{one['TRL, best settings']['cpu_seconds'] / one[title]['cpu_seconds']:.2f}"
                for one in turns
            )
        )
    ours, best = found["rmexp, TRL's best order"], found["TRL, best settings"]
    gap = np.abs(np.array(ours["losses"]) - np.array(best["losses"])).max()
    results.line(f"largest difference of a step's loss in the same order: {gap:.4f}")
    own = found["rmexp"]
    flops = own["flops_per_token"] * own["tokens"]
    peak = max(peaks)
    results.line(
        f"rmexp: {100 * own['tokens_saved']:.0f}% of the tokens saved; "
        f"{flops / own['seconds'] / peak:.2f} of the peak by the clock, "
        f"{flops / own['cpu_seconds'] * arguments.threads / peak:.2f} by CPU seconds "
        f"(4 N a token, N without embeddings; peak {peak / 1e9:.0f} GFLOP/s bf16)"
    )


def together(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Several turns of one run as one: counts and seconds are sums."""
    summed = ("seconds", "cpu_seconds", "tokens", "pairs")
    return turns[0] | {name: sum(t[name] for t in turns) for name in summed if name in turns[0]}


def run(worker: str, job: dict[str, Any], peer_python: Path, folder: Path) -> dict[str, Any]:
    path, out = folder / "job.json", folder / "out.json"
    path.write_text(json.dumps(job | {"out": str(out)}))
    threads = str(job["threads"])
    env = os.environ | {"OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    env |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, __file__, "--worker", "rmexp", "--job", str(path)]
    if worker == "trl":
        env.pop("PYTHONPATH")
        command = [str(peer_python), str(HERE / "train_throughput_trl.py"), str(path)]
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text())


def model_with_head(cache: Path, folder: Path) -> Path:
    """SmolLM2 with one drawn head, so that all start from the same weights."""
    import torch

    from rmexp.backbone.load import load_sequence_classifier
    from rmexp.backbone.sources import resolve_model

    classifier = load_sequence_classifier(resolve_model("smollm2_135m", cache), seed=1)
    classifier.model.to(torch.bfloat16).save_pretrained(folder)
    classifier.tokenizer.save_pretrained(folder)
    return folder


def chosen_pairs(file: Path, model: Path, count: int) -> list[dict[str, Any]]:
    """A seeded draw of pairs within TRL's length limit (it drops longer ones)."""
    from transformers import AutoTokenizer

    from rmexp.backbone.text import TextTemplate
    from rmexp.preferences.read import read_files

    tokenizer = AutoTokenizer.from_pretrained(model)
    template = TextTemplate(tokenizer, name="chat", max_length=4096, causal=True)
    pairs = read_files(file, on_invalid="drop").pairs
    order = np.random.default_rng(0).permutation(len(pairs))[: 2 * count]
    rows = []
    for pair in (pairs[i] for i in order):
        sides = (pair.response_a, pair.response_b)
        if pair.preference == "b":
            sides = sides[::-1]
        lengths = [len(t.ids) for t in template.encode([pair.prompt] * 2, sides)]
        if max(lengths) <= MOST_TOKENS:
            prompt = [{"role": m.role, "content": m.content} for m in pair.prompt]
            rows.append(
                {"prompt": prompt, "chosen": sides[0], "rejected": sides[1], "tokens": sum(lengths)}
            )
    return rows[:count]


def matmul_peak(threads: int) -> float:
    """The best of several bfloat16 products of the sizes of a layer, FLOP a second."""
    import torch

    torch.set_num_threads(threads)
    weight, x = torch.randn(1536, 576).bfloat16(), torch.randn(1024, 576).bfloat16()
    best = float("inf")
    for _ in range(30):
        begin = time.perf_counter()
        for _ in range(10):
            torch.nn.functional.linear(x, weight)
        best = min(best, (time.perf_counter() - begin) / 10)
    return 2 * weight.numel() * len(x) / best


def train_here(job: dict[str, Any]) -> None:
    """One epoch through rmexp.reward.train, timed from its first step on."""
    from rmexp.backbone.classifier import Classifier
    from rmexp.backbone.options import PeftOptions
    from rmexp.preferences.pair import prompt_from_messages
    from rmexp.reward.data import TrainingPairs
    from rmexp.reward.module import RewardModule
    from rmexp.reward.train import train_reward_model

    clock: dict[str, Any] = {"tokens": 0, "pairs": 0}
    losses: list[float] = []
    step = RewardModule.training_step

    def timed(self: RewardModule, batch: Any, index: int) -> Any:
        if index == 0:
            clock["begin"], clock["cpu"] = time.perf_counter(), time.process_time()
        clock["tokens"] += batch.tokens
        clock["pairs"] += len(batch.index)
        loss = step(self, batch, index)
        losses.append(float(loss.detach()))
        return loss

    def end(self: RewardModule) -> None:
        clock["seconds"] = time.perf_counter() - clock["begin"]
        clock["cpu_seconds"] = time.process_time() - clock["cpu"]
        finish(self)

    finish = RewardModule.on_train_epoch_end
    RewardModule.training_step = timed  # type: ignore[method-assign]
    RewardModule.on_train_epoch_end = end  # type: ignore[method-assign]
    rows = job["pairs"]
    trained = train_reward_model(
        TrainingPairs(
            [str(i) for i in range(len(rows))],
            [prompt_from_messages(r["prompt"]) for r in rows],
            [r["chosen"] for r in rows],
            [r["rejected"] for r in rows],
        ),
        None,
        model=job["model"],
        directory=Path(job["folder"]) / "rmexp",
        cache_dir=Path(job["folder"]) / "cache",
        seed=job["seed"],
        peft=PeftOptions(kind="lora"),
        learning_rate=1e-4,
        warmup_steps=0,
        epochs=1,
        batch_pairs=job["batch"],
        shuffle=job["shuffle"],
        precision="bf16",
        threads=job["threads"],
        save=False,
    )
    classifier: Classifier = trained.model.classifier
    frozen = [
        p.numel()
        for n, p in classifier.model.named_parameters()
        if not p.requires_grad and "embed" not in n
    ]
    row = trained.history[0]
    out = {k: clock[k] for k in ("seconds", "cpu_seconds", "tokens", "pairs")}
    out |= {"losses": losses, "tokens_saved": row["train/tokens_saved"]}
    Path(job["out"]).write_text(json.dumps(out | {"flops_per_token": 4 * sum(frozen)}))


if __name__ == "__main__":
    main()
