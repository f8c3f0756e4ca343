"""What of a backbone is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from rmexp.errors import UserError

Precision = Literal["32", "bf16"]
AttentionKind = Literal["sdpa", "flex"]
PeftKind = Literal["full", "lora", "qlora", "head_only", "last_k"]


@dataclass(frozen=True)
class PeftOptions:
    """Which weights are trained.

    Attributes:
        kind: ``full`` every weight; ``lora`` low-rank adapters and the head; ``qlora``
            the same on a base in four bits; ``head_only`` what
            follows the last layer (pooler and head); ``last_k`` that and the last layers.
        rank: of the adapters (lora).
        alpha: their scale (lora).
        dropout: their dropout (lora).
        last_k: how many layers (last_k).
        targets: names of the adapted modules (lora), or ``all-linear``.
    """

    kind: PeftKind = "full"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    last_k: int = 2
    targets: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        if self.kind not in get_args(PeftKind):
            kinds = ", ".join(get_args(PeftKind))
            raise UserError(f"peft.kind={self.kind}: use one of {kinds}")
        if self.rank < 1:
            raise UserError(f"peft.rank={self.rank}: use a rank of at least 1")
        if self.last_k < 1:
            raise UserError(f"peft.last_k={self.last_k}: use at least 1 layer")
        if not 0 <= self.dropout < 1:
            raise UserError(f"peft.dropout={self.dropout}: use a share from 0 to below 1")

    @property
    def adapts(self) -> bool:
        """Whether adapters are trained on frozen weights."""
        return self.kind in ("lora", "qlora")

    @property
    def drops(self) -> bool:
        """Whether training draws random numbers."""
        return self.adapts and self.dropout > 0
