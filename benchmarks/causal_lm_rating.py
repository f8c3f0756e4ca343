"""Ratings per second of the causal-LM rater, beside one forward pass per rule and response.

Real pairs (hh-rlhf, dialogues of usual length), the 100 rules of the pool, SmolLM2-135M. Baselines
on the same token ids: one forward pass per (rule, response), the published way, and padded batches
of 8 with the logits of the last position only. They are timed on a random part of each pair's
questions, as the whole would take hours, and spared the tokenisation, which the rater pays.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rbr_data import shared_data
from results_file import ResultsFile

from rmexp.backbone.sources import resolve_model
from rmexp.preferences.rows import pair_from_row
from rmexp.rating import Item
from rmexp.rating.causal_lm import CausalLMRater
from rmexp.rating.yes_no import psi_and_relevance
from rmexp.rules.load import load_rule_set


def items_of_pairs(count: int, seed: int = 0) -> list[Item]:
    path = shared_data() / "hh-rlhf" / "harmless-base-test.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    chosen = np.random.default_rng(seed).choice(len(rows) - 10, count, replace=False)
    items = []
    for place in chosen:
        pair = pair_from_row(rows[place], f"hh:{place + 1}")
        items += [Item(pair.prompt, pair.response_a), Item(pair.prompt, pair.response_b)]
    return items


def timed(call: Callable[[], NDArray[np.float32]]) -> tuple[NDArray[np.float32], float]:
    """On a CPU the seconds of the one thread that works, so that other programs do not count."""
    cuda = torch.cuda.is_available()
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
    started = clock()
    result = call()
    if cuda:
        torch.cuda.synchronize()
    return result, clock() - started


def padded(
    rater: CausalLMRater, questions: list[tuple[int, ...]], batch: int
) -> NDArray[np.float32]:
    """Logits of the three answers, ``[questions, 3]``, in padded batches in the given order."""
    device = rater._device
    answers = []
    with torch.inference_mode():
        for start in range(0, len(questions), batch):
            rows = questions[start : start + batch]
            longest = max(map(len, rows))
            # Padded on the left, so that every row's last position is its answer's.
            ids = torch.tensor([(0,) * (longest - len(r)) + r for r in rows], device=device)
            mask = torch.tensor(
                [[0] * (longest - len(r)) + [1] * len(r) for r in rows], device=device
            )
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            output = rater._model(
                input_ids=ids,
                attention_mask=mask if batch > 1 else None,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=1,
            )
            answers.append(output.logits[:, -1].float().cpu().numpy())
    return np.concatenate(answers)[:, rater._template.answer_ids]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/rmexp").expanduser())
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--questions", type=int, default=8, help="timed of each baseline and pair")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--results", default="causal_lm_rating")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rater = CausalLMRater(resolve_model("smollm2_135m", arguments.cache), dtype=arguments.dtype)
    rules, items = load_rule_set("safety100").rules, items_of_pairs(arguments.pairs)
    all_questions = []
    for item in items:
        question = rater._template.question(item.prompt, item.response)
        all_questions += [
            question.prompt + question.response + rater._template.branch(rule) for rule in rules
        ]
    random = np.random.default_rng(1)
    per_pair = len(all_questions) // arguments.pairs
    rater.rate(items[:1], rules[:8])  # warm up
    padded(rater, all_questions[:2], 1)
    baselines = {"one forward per rule and response": 1, "padded batches of 8": 8}
    seconds: dict[str, list[float]] = {name: [] for name in ("causal_lm rater", *baselines)}
    apart = dict.fromkeys(baselines, 0.0)
    # By turns, so that whatever else the machine does falls on all three alike.
    for pair in range(arguments.pairs):
        ours, spent = timed(lambda pair=pair: rater.rate(items[2 * pair : 2 * pair + 2], rules).psi)
        seconds["causal_lm rater"].append(spent / ours.size)
        part = random.choice(per_pair, arguments.questions, replace=False)
        questions = [all_questions[pair * per_pair + i] for i in part]
        for name, batch in baselines.items():
            logits, spent = timed(lambda q=questions, batch=batch: padded(rater, q, batch))
            seconds[name].append(spent / len(questions))
            psi, _ = psi_and_relevance(logits)
            difference = np.abs(psi - ours.reshape(-1)[part]).max()
            apart[name] = max(apart[name], float(difference))

    with ResultsFile(arguments.results) as results:
        where = (
            torch.cuda.get_device_name()
            if rater._device.type == "cuda"
            else "CPU, 1 thread, processor time"
        )
        results.line(
            f"{where}, {arguments.dtype}, {len(items)} responses of {arguments.pairs} pairs x "
            f"{len(rules)} rules, {np.mean([len(q) for q in all_questions]):.0f} tokens a question"
        )
        ours_mean = float(np.mean(seconds["causal_lm rater"]))
        results.line(f"{'causal_lm rater':<36}{1 / ours_mean:>8.2f} ratings/s")
        for name in baselines:
            ratio = np.array(seconds[name]) / np.array(seconds["causal_lm rater"])
            results.line(
                f"{name:<36}{1 / np.mean(seconds[name]):>8.2f} ratings/s, "
                f"{np.mean(seconds[name]) / ours_mean:.1f} times slower "
                f"(pair by pair {', '.join(f'{r:.1f}' for r in ratio)}), "
                f"psi apart by {apart[name]:.0e} at most"
            )


if __name__ == "__main__":
    main()
