"""Rating: how well each response follows each rule, the raters, and the store of ratings."""

from rmexp.rating.pairs import PairRatings, rate_pairs
from rmexp.rating.rater import Item, RatedBatch, Rater
from rmexp.rating.store import RatingStore

__all__ = ["Item", "PairRatings", "RatedBatch", "Rater", "RatingStore", "rate_pairs"]
