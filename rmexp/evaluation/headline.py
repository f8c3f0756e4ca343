"""The lines that stand first wherever an accuracy is told: its interval, and the baselines."""

from __future__ import annotations

from collections.abc import Mapping


def headline(metrics: Mapping[str, float], part: str, pairs: str = "pairs") -> list[str]:
    """Accuracy, baselines, and the difference to the better length baseline, a line each.

    Args:
        metrics: of a :class:`~rmexp.evaluation.preferences.PreferenceEvaluation`.
        part: what was measured on, such as ``test``.
        pairs: what to call what was counted.

    >>> for line in headline(
    ...     {
    ...         "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "pairs": 80,
    ...         "baseline_longer": 0.3, "baseline_shorter": 0.7, "baseline_majority": 0.55,
    ...         "over_length_baseline": -0.2,
    ...         "over_length_baseline_low": -0.3, "over_length_baseline_high": -0.1,
    ...     },
    ...     "test",
    ... ):
    ...     print(line)
    test accuracy 0.500 (95% interval 0.400 to 0.600, 80 pairs)
    baselines on the same pairs: longer 0.300, shorter 0.700, majority side 0.550
    accuracy BELOW the better length baseline ("always prefer the shorter") by -0.200 (95% \
interval -0.300 to -0.100)
    """
    m = metrics
    lines = [
        f"{part} accuracy {m['accuracy']:.3f} (95% interval {m['accuracy_low']:.3f} to "
        f"{m['accuracy_high']:.3f}, {m['pairs']:.0f} {pairs}{_unanimous(m)})",
        f"baselines on the same pairs: longer {m['baseline_longer']:.3f}, "
        f"shorter {m['baseline_shorter']:.3f}, majority side {m['baseline_majority']:.3f}",
    ]
    # What an older rmexp measured lacks it.
    if "over_length_baseline" in m:
        lines.append(_over_length(m))
    return lines


def _over_length(m: Mapping[str, float]) -> str:
    difference = m["over_length_baseline"]
    low, high = m["over_length_baseline_low"], m["over_length_baseline_high"]
    side = "longer" if m["baseline_longer"] >= m["baseline_shorter"] else "shorter"
    words = "above the better length baseline"
    if difference < 0:
        words = f'BELOW the better length baseline ("always prefer the {side}")'
    covers = ", which covers 0" if low <= 0 <= high else ""
    return f"accuracy {words} by {difference:+.3f} (95% interval {low:+.3f} to {high:+.3f}{covers})"


def _unanimous(m: Mapping[str, float]) -> str:
    """Why an interval is there where nothing varied."""
    # What an older rmexp measured has no width there.
    if m["accuracy"] in (0.0, 1.0) and m["accuracy_low"] < m["accuracy_high"]:
        return f", all {'right' if m['accuracy'] else 'wrong'}: Wilson's interval"
    return ""
