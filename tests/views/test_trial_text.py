from __future__ import annotations

from rmexp.trial.record import TrialIdentity, TrialRecord
from rmexp.trial.schema import TrialConfig
from rmexp.views.trial_text import trial_lines

MEASURED = {
    "accuracy": 0.6,
    "accuracy_low": 0.4,
    "accuracy_high": 0.8,
    "pairs": 9.0,
    "baseline_longer": 0.3,
    "baseline_shorter": 0.7,
    "baseline_majority": 0.5,
    "over_length_baseline": -0.1,
    "over_length_baseline_low": -0.3,
    "over_length_baseline_high": -0.05,
    "margin": 0.25,
}


def record(contaminated: int = 0) -> TrialRecord:
    found = {
        "prompts": 21,
        "exact": 1,
        "contaminated": contaminated,
        "mean_overlap": 0.1,
        "n_gram": 8,
        "threshold": 0.5,
        "examples": [],
    }
    data = {"source": "mine.jsonl", "read": 62, "kept": 60, "dropped": {"empty response": 2}}
    return TrialRecord(
        state="complete",
        reason="",
        objective=0.6,
        config=TrialConfig(cache_dir="cache").to_plain(),
        identity=TrialIdentity(),
        metrics={
            "train/truncated": 3.0,
            "labels/kept": 28.0,
            "labels/dropped_ties": 2.0,
            "labels/agreement_with_human": 0.75,
            "contamination/test": float(contaminated),
            **{f"validation/{name}": value for name, value in MEASURED.items()},
            "suite/Safety": 0.5,
            "suite/Safety_low": 0.25,
            "suite/Safety_high": 0.75,
        },
        report={
            "data": {**data, "examples": {"empty response": ["mine.jsonl:4"]}, "notes": {}},
            "split": {"train": 30, "validation": 9, "test": 21},
            "contamination": {"test": found},
        },
    )


def test_what_was_read_stands_first_then_the_accuracy_with_its_baselines() -> None:
    lines = trial_lines(record())
    assert lines[:3] == [
        "mine.jsonl: read 62, kept 60, dropped 2 empty response (first: mine.jsonl:4)",
        "split by prompt: train 30, validation 9, test 21",
        "labels: 28 training pairs, 2 ties dropped, agreement with the human preference 0.750",
    ]
    assert lines[4] == "validation accuracy 0.600 (95% interval 0.400 to 0.800, 9 pairs)"
    assert lines[6].startswith('accuracy BELOW the better length baseline ("always prefer the sh')
    assert lines[-1] == "objective accuracy = 0.6"


def test_pairs_that_were_not_rated_enough_are_counted() -> None:
    shown = record()
    shown.metrics["labels/dropped_unrated"] = 3.0
    assert "2 ties dropped, 3 not rated enough, agreement" in trial_lines(shown)[2]


def test_the_rest_is_grouped_and_the_ends_of_an_interval_are_called_so() -> None:
    lines = trial_lines(record())
    groups = [line for line in lines if line.endswith(":")]
    assert groups == ["suite:", "train:", "validation:"]
    words = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line[:2] == "  "}
    assert words == {
        "Safety": "0.5 (95% interval 0.25 to 0.75)",
        "truncated": "3",
        "margin": "0.25",
    }


def test_contamination_is_explained_where_there_is_any() -> None:
    assert not any("contamination" in line for line in trial_lines(record()))
    (line,) = [line for line in trial_lines(record(4)) if "contamination" in line]
    assert line.startswith("contamination: 4 of 21 test prompts share 50% or more of their words")
    assert "runs of 8 (1 word for word)" in line


def test_how_scores_have_moved_is_told_by_set() -> None:
    shown = record()
    shown.report["drift_between_epochs"] = {"validation": {"score_shift": 0.25}}
    shown.report["drift"] = {"mine": {"score_rank_correlation": 0.5, "score_distance": 0.125}}
    told = [line for line in trial_lines(shown) if "scores against" in line]
    assert told == [
        "validation scores against those by the epoch before: score shift 0.250",
        "mine scores against those by the model before training: score rank correlation 0.500, "
        "score distance 0.125",
    ]
