"""The exemplar rater: is a response nearer to what follows a rule, or to what breaks it?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, fingerprint
from rmexp.rating.rater import Embedder, Item, RatedBatch, only_wanted
from rmexp.rules import Rule

_SCALE = 8.0


class ExemplarRater:
    """Rates by similarity to each rule's examples; needs no network and no training.

    Args:
        embedder: gives texts their vectors.
    """

    def __init__(self, embedder: Embedder):
        self.embedder = embedder
        self.fingerprint: Fingerprint = fingerprint(
            "exemplar", version=0, embedder=embedder.fingerprint
        )

    def rate(
        self,
        items: Sequence[Item],
        rules: Sequence[Rule],
        wanted: NDArray[np.bool_] | None = None,
    ) -> RatedBatch:
        """Rate items by rules; see :class:`rmexp.rating.rater.Rater`.

        Raises:
            UserError: a rule has no example that follows it, or none that breaks it.
        """
        for rule in rules:
            if not rule.follows or not rule.breaks:
                raise UserError(
                    f"rule '{rule.id}': the exemplar rater needs at least one example under "
                    "'follows' and one under 'breaks'"
                )
        responses = self.embedder.embed([item.response for item in items])
        stance = np.stack([self._direction(rule) for rule in rules])
        psi = np.tanh(_SCALE * responses @ stance.T).astype(np.float32)
        return RatedBatch(only_wanted(psi, wanted))

    def _direction(self, rule: Rule) -> NDArray[np.float32]:
        follows = self.embedder.embed([e.response for e in rule.follows]).mean(axis=0)
        breaks = self.embedder.embed([e.response for e in rule.breaks]).mean(axis=0)
        direction: NDArray[np.float32] = follows - breaks
        return direction / max(float(np.linalg.norm(direction)), 1e-6)
