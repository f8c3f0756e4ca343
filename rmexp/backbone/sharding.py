"""Strategies over several devices, and a sharded model's weights in one piece."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from rmexp.backbone.classifier import Classifier, layers_of
from rmexp.backbone.parts import read_parts
from rmexp.errors import UserError

StrategyName = Literal["auto", "ddp", "fsdp", "fsdp2"]


def strategy_of(
    name: StrategyName,
    *,
    accelerator: str,
    devices: int,
    nodes: int = 1,
    sharded_checkpoints: bool = False,
) -> Any:
    """Lightning's strategy.

    Args:
        name: ``fsdp`` and ``fsdp2`` are one: Lightning's FSDPStrategy (FSDP1) clips each shard by
            its own norm and flattens what it shards into vectors without names.
        accelerator: cpu, gpu or mps.
        devices: on each node.
        nodes: how many machines.
        sharded_checkpoints: each rank writes its own part of a checkpoint (fsdp).

    Raises:
        UserError: there is no such strategy.
    """
    if name == "auto":
        return "auto"
    if name == "ddp":
        from pytorch_lightning.strategies import DDPStrategy

        return DDPStrategy(process_group_backend="gloo" if accelerator == "cpu" else None)
    if name in ("fsdp", "fsdp2"):
        # Lightning's "auto" would put tensor parallelism inside the node.
        return _partial_checkpoints()(
            data_parallel_size=devices * nodes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=sharded_checkpoints,
            process_group_backend="gloo" if accelerator == "cpu" else None,
        )
    raise UserError(f"trainer.strategy={name}: use one of auto, ddp, fsdp, fsdp2")


@cache
def _partial_checkpoints() -> type:
    from pytorch_lightning.strategies import ModelParallelStrategy

    class PartialCheckpoints(ModelParallelStrategy):
        """Reads sharded checkpoints that hold what is trained, and not the frozen base.

        Lightning's own asks a folder of parts for every weight of the model.
        """

        def load_checkpoint(self, checkpoint_path: Any, weights_only: Any = None) -> dict[str, Any]:
            path = Path(self.broadcast(checkpoint_path))
            if not path.is_dir():
                return super().load_checkpoint(path, weights_only)
            from torch.distributed.checkpoint.state_dict import (
                get_model_state_dict,
                get_optimizer_state_dict,
                set_optimizer_state_dict,
            )

            trained = {n for n, p in self.model.named_parameters() if p.requires_grad}
            every = get_model_state_dict(self.model)
            state: dict[str, Any] = {"state_dict": {n: every[n] for n in every if n in trained}}
            for number, optimizer in enumerate(self.optimizers):
                state[f"optimizer_{number}"] = get_optimizer_state_dict(self.model, optimizer)
            read_parts(state, path)
            self.model.load_state_dict(state["state_dict"], strict=False)
            for number, optimizer in enumerate(self.optimizers):
                set_optimizer_state_dict(self.model, optimizer, state[f"optimizer_{number}"])
            rest: dict[str, Any] = torch.load(path / "meta.pt", weights_only=True)
            return rest

    return PartialCheckpoints


def shard(classifier: Classifier, mesh: Any) -> None:
    """Shard a classifier in place by FSDP2, each layer a unit.

    A causal model's trunk and head are called apart, so each is a root of its own; an encoder is
    one. Every weight is stored in float32 (one dtype a unit: LlamaFactory #10157), products follow
    the classifier's autocast.
    """
    from torch.distributed.fsdp import fully_shard

    classifier.sharded = True
    inner = classifier.inner
    inner.float()
    for layer in layers_of(inner):
        fully_shard(layer, mesh=mesh)
    if classifier.causal:
        fully_shard(classifier.trunk, mesh=mesh)
        fully_shard(inner.score, mesh=mesh)
    else:
        fully_shard(inner, mesh=mesh)


def whole_weights(model: Any) -> dict[str, torch.Tensor]:
    """A sharded model's weights in one piece, on the CPU of rank 0; empty on the others.

    Collective: every rank calls it.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
