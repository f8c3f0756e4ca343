"""Critical rules, selection strategies and labels: plain NumPy."""

from rmexp.labelling.critical import critical_rules, discrepancy
from rmexp.labelling.labels import Labels, preference_labels

__all__ = ["Labels", "critical_rules", "discrepancy", "preference_labels"]
