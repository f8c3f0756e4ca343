"""Critical rules, selectors and labels (NumPy only)."""

from rmexp.labelling.critical import critical_rules, discrepancy
from rmexp.labelling.labels import Labels, TiePolicy, preference_labels
from rmexp.labelling.selectors import (
    AdaptiveSelector,
    AllSelector,
    FixedSelector,
    RandomSelector,
    SelectionContext,
    Selector,
)

__all__ = [
    "AdaptiveSelector",
    "AllSelector",
    "FixedSelector",
    "Labels",
    "RandomSelector",
    "SelectionContext",
    "Selector",
    "TiePolicy",
    "critical_rules",
    "discrepancy",
    "preference_labels",
]
