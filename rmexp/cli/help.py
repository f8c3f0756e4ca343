"""The help of the commands that take KEY=VALUE."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CommandHelp:
    """What a user asks of a command.

    Attributes:
        usage: after ``rmexp``.
        about: what it does.
        examples: command lines.
        keys: the most used keys, each with what it means.
    """

    usage: str
    about: str
    examples: tuple[str, ...]
    keys: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        lines = [f"usage: rmexp {self.usage}", "", self.about, "", "examples:"]
        lines += [f"  rmexp {example}" for example in self.examples]
        if self.keys:
            width = max(len(key) for key, _ in self.keys)
            lines += ["", "most used keys:"]
            lines += [f"  {key:{width}s}  {meaning}" for key, meaning in self.keys]
            names = itertools.takewhile(lambda w: w.islower() and "=" not in w, self.usage.split())
            command = " ".join(name.partition("|")[0] for name in names)
            lines += [
                "",
                f"all keys: docs/config.md, or the composed config: rmexp {command} --cfg job",
                "your own config groups: --config-dir DIR; Hydra's flags: --hydra-help",
            ]
        return "\n".join(lines)


_DATA = ("data=jsonl data.path=FILE", "your own pairs (default: data=starter)")
_RULES = ("rules=NAME", "core20 (default), safety100; your own: rules=file rules.path=FILE.yaml")
_RATER = ("rater=NAME", "exemplar (default), probe, causal_lm, openai, recorded, custom")
_GAMMA = ("gamma=1.0", "weight of relevance against discrepancy; 0 is discrepancy alone")
_R = ("r=5", "critical rules per pair")
_PART = ("part=NAME", "train, validation, test, or all")
_OUT = ("out=FILE", "where the result goes")
_MODEL = ("model=NAME", "minilm (default), smollm2_135m, ...; model=path model.name=FOLDER_OR_HUB")
_SUITE = (
    "suite=NAME",
    "pairs (default: a part of data), rewardbench, rewardbench2, llmbar, ...",
)

HELP: dict[str, CommandHelp] = {
    "train": CommandHelp(
        "train [-m] [KEY=VALUE ...]",
        "One trial: pairs -> ratings -> critical rules -> labels -> reward model -> evaluation.\n"
        "With -m and ranges as values, a study of trials.",
        (
            "train gamma=0.5 r=3",
            "train data=jsonl data.path=my_pairs.jsonl rules=file rules.path=my_rules.yaml",
            "train -m 'gamma=choice(0,0.5,1)' 'learning_rate=tag(log,interval(1e-5,1e-3))'",
        ),
        (
            _DATA,
            _RULES,
            _RATER,
            _GAMMA,
            _R,
            _MODEL,
            ("peft=NAME", "full (default), lora, last_k, head_only"),
            ("learning_rate=3e-4 epochs=2", "of the reward model"),
            ("seeds=[0,1,2]", "train with each of them; objective and metrics are the means"),
            ("trainer=NAME", "cpu (default), gpu, mps, ddp, fsdp, fsdp2"),
            ("tracker=none", "no W&B run"),
            ("ckpt_path=last", "go on from the newest unfinished run (trainer.checkpoint_steps=N)"),
            ("evaluation.objective=accuracy", "a metric, or a formula over metrics"),
        ),
    ),
    "sweep": CommandHelp(
        "sweep sweep=NAME [--dry-run] [KEY=VALUE ...]",
        "A study: trials over a search space, from sweeps/NAME.yaml or ranges given here. Stopped\n"
        "by Ctrl-C, the same command goes on to the target.",
        (
            "sweep sweep=starter",
            "sweep sweep=starter --dry-run",
            "sweep study=mine 'gamma=choice(0,0.5,1)' 'r=choice(1,3,5)' sweep.trials=20",
        ),
        (
            ("sweep=NAME", "a named search space"),
            ("study=NAME", "another study than the sweep's own"),
            ("sweep.trials=10", "finished trials in the study"),
            ("executor=NAME", "process (default), inline, submitit, ray"),
            ("executor.slots=N", "trials at once"),
            ("any key of a trial", "see 'rmexp train --help'"),
        ),
    ),
    "evaluate": CommandHelp(
        "evaluate model.path=FOLDER_OR_HUB_NAME [KEY=VALUE ...]",
        "Score a reward model on judged responses, with intervals and baselines.",
        (
            "evaluate model.path=outputs/studies/starter/trials/0000/model",
            "evaluate model.path=FOLDER suite=llmbar suite.path=FOLDER out=result.json",
        ),
        (("model.path=FOLDER", "the reward model"), _SUITE, _DATA, _PART, _OUT),
    ),
    "compare": CommandHelp(
        "compare A B ... [KEY=VALUE ...]",
        "Models or trials on one set, row by row; a model is a folder, a hub name, or STUDY:N.",
        ("compare starter:3 starter:5", "compare FOLDER owner/name suite=hh out=comparison.json"),
        (_SUITE, _DATA, _PART, _OUT, ("picture=FILE.html", "null: none")),
    ),
    "score": CommandHelp(
        "score model.path=FOLDER in=FILE out=FILE [KEY=VALUE ...]",
        "Score a file of responses: the same rows with their scores.",
        ("score model.path=FOLDER in=responses.jsonl out=scored.jsonl",),
        (
            ("model.path=FOLDER", "the reward model, or a hub name"),
            ("in=FILE", "rows of prompt and response, or pairs"),
            ("out=FILE", ".jsonl or .parquet"),
        ),
    ),
    "export": CommandHelp(
        "export model.path=FOLDER_OR_CHECKPOINT out=FOLDER [KEY=VALUE ...]",
        "A model as one folder to hand on.",
        ("export model.path=outputs/studies/starter/trials/0000/model out=my_model",),
        (
            ("model.path=FOLDER", "a model's folder or a checkpoint"),
            ("out=FOLDER", "a folder that does not exist yet"),
            ("merge=true", "add LoRA's adapters to the weights, for plain transformers"),
        ),
    ),
    "rate": CommandHelp(
        "rate [--dry-run] [KEY=VALUE ...]",
        "Fill the rating store, so that trials rate nothing; stopped, it goes on where it was.",
        ("rate rules=safety100", "rate rater=openai rater.model=NAME --dry-run", "rate part=all"),
        (_DATA, _RULES, _RATER, _PART, ("shards=4 shard=0", "share the pairs between jobs")),
    ),
    "label": CommandHelp(
        "label out=FILE [KEY=VALUE ...]",
        "Label pairs by their critical rules, into a file that TRL's RewardTrainer loads.",
        (
            "label out=labels.parquet",
            "label data=jsonl data.path=my_pairs.jsonl r=3 out=labels.jsonl",
        ),
        (("out=FILE", ".parquet or .jsonl"), _DATA, _RULES, _RATER, _GAMMA, _R, _PART),
    ),
    "rules audit": CommandHelp(
        "rules audit [KEY=VALUE ...]",
        "What is wrong with a rule set: rules that never differ, or repeat each other.",
        ("rules audit", "rules audit rules=file rules.path=my_rules.yaml out=audit.json"),
        (
            _RULES,
            _DATA,
            _RATER,
            ("r=N", "critical rules per pair (default 5, or every rule of a smaller set)"),
            _PART,
            _OUT,
            ("picture=FILE.html", "null: none"),
        ),
    ),
    "rater": CommandHelp(
        "rater fit|check labels=FILE [KEY=VALUE ...]",
        "Teach a rater from labelled responses (fit), or compare one with them (check).",
        (
            "rater fit labels=labels.jsonl out=probe",
            "rater check rater=exemplar labels=labels.jsonl",
        ),
        (
            ("labels=FILE", "rows of prompt, response, labels {rule id: true or false}"),
            _RULES,
            ("rater=NAME", "which rater is compared (check)"),
            ("out=probe", "folder of the fitted probe (fit)"),
        ),
    ),
    "adapter": CommandHelp(
        "adapter train|check [KEY=VALUE ...]",
        "Train a Rule Adapter, which chooses rules before rating, or check one on unseen prompts.",
        ("adapter train out=my_adapter rules=core20", "adapter check path=my_adapter part=test"),
        (
            ("out=FOLDER", "of the trained adapter (train)"),
            ("path=FOLDER", "a trained adapter (check)"),
            _DATA,
            _RULES,
            _RATER,
            _GAMMA,
            _R,
            _MODEL,
        ),
    ),
    "prepare": CommandHelp(
        "prepare FOLDER [KEY=VALUE ...]",
        "Gather models, data, tokens and ratings that a trial or a sweep needs where there is no\n"
        "network; takes what train and sweep take.",
        ("prepare my_folder gamma=0.5", "prepare my_folder sweep=starter model=smollm2_135m"),
    ),
}
_ASKS = ("-h", "--help", "help")


def asked_help(words: Sequence[str]) -> str | None:
    """The help that a command line asks for, None where it asks for none.

    Args:
        words: the command line, from the command on.
    """
    if not any(word in _ASKS[:2] for word in words[1:]) and list(words[1:2]) != ["help"]:
        return None
    command = "rules audit" if words[0] == "rules" else words[0]
    return str(HELP[command]) if command in HELP else None
