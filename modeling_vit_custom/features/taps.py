"""Where features are taken from a frozen encoder, and the smaller model of ours that gives just these.

Shapes: B batch, N tokens, D width, W the features of all taps side by side.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..modeling_vit_custom import ViTCustomForImageClassification
from ..pooling_vit_custom import ViTCustomPooler

SINGLE = ("cls", "mean")  # poolings of one token's width, of which "cls_mean" is made


@dataclass(frozen=True)
class Tap:
    """block: after which block, counted from 1.   pooling: as of the configuration."""

    block: int
    pooling: str

    def __str__(self) -> str:
        return f"{self.pooling} of block {self.block}"


class Taps:
    """The features of an encoder: the poolings it can have, after its last block and those of its second half.

    taps: the model's own one first.   width: W.
    """

    def __init__(self, model: ViTCustomForImageClassification):
        self.model = model
        config: Any = model.config
        self.poolings = _poolings(config)
        last = config.num_hidden_layers
        first = last if config.pre_logits_size else last - last // 2
        self.blocks = range(last, first - 1, -1)
        halves = [pooling for pooling in SINGLE if pooling in self.poolings]
        composed = {"cls_mean"} if len(halves) == 2 else set()
        self._parts = [pooling for pooling in self.poolings if pooling not in {*halves, *composed}] + halves
        self._poolers = {pooling: _pooler(model, pooling) for pooling in self._parts}
        widths = [pooled_size(config, pooling) for pooling in self._parts]
        self._starts = dict(zip(self._parts, [sum(widths[:i]) for i in range(len(widths))], strict=True))
        self._block_width = sum(widths)
        self.taps = [Tap(block, pooling) for block in self.blocks for pooling in self.poolings]
        self.width = self._block_width * len(self.blocks)

    def describe(self) -> dict[str, Any]:
        """Return what the columns of a row are, fit for JSON."""
        return {"blocks": list(self.blocks), "poolings": self._parts}

    def columns(self, tap: Tap) -> slice:
        """Return which of the W columns are the features of one tap."""
        start = self.blocks.index(tap.block) * self._block_width
        inside = "cls" if tap.pooling not in self._starts else tap.pooling
        start += self._starts[inside]
        return slice(start, start + pooled_size(self.model.config, tap.pooling))

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return float32 [B, W] of images [B, C, H, W'], all of one forward."""
        with self._watched() as seen:
            self.model.vit(pixel_values)
        return torch.cat([seen[block] for block in self.blocks], dim=1).float()

    @contextmanager
    def _watched(self) -> Iterator[dict[int, torch.Tensor]]:
        seen: dict[int, torch.Tensor] = {}

        def pool(block: int, hidden_states: torch.Tensor, sizes: torch.Tensor | None) -> None:
            normed = self.model.vit.layernorm(hidden_states)
            pooled = [self.model.pre_logits(pooler(normed, sizes)) for pooler in self._poolers.values()]
            seen[block] = torch.cat(pooled, dim=1)

        with ExitStack() as handles:
            for block in self.blocks:

                def keep(_module: nn.Module, _args: Any, output: Any, block: int = block) -> None:
                    pool(block, output[0], output[1].sizes)

                handles.callback(self.model.vit.layers[block - 1].register_forward_hook(keep).remove)
            yield seen


def narrowed(model: ViTCustomForImageClassification, tap: Tap) -> ViTCustomForImageClassification:
    """Return a model whose pooled vector is `tap` of `model`, with its weights; the head is new."""
    config: Any = type(model.config).from_dict(model.config.to_dict() | _fields(model.config, tap))
    config.dtype = model.config.dtype
    other = ViTCustomForImageClassification(config)
    wanted, have = other.state_dict(), model.state_dict()
    kept = {name: have[name] for name in wanted if not name.startswith("classifier.")}
    head = {name: tensor for name, tensor in wanted.items() if name.startswith("classifier.")}
    other.load_state_dict(kept | head)
    module: nn.Module = other  # whose `to` transformers wraps
    module.to(dtype=model.dtype, device=model.device)
    return other.train(model.training)


def pooled_size(config: Any, pooling: str) -> int:
    """Return the width of what the classifier is given with this pooling."""
    return config.pre_logits_size or config.hidden_size * (2 if pooling in ("cls_mean", "cls_register") else 1)


def _fields(config: Any, tap: Tap) -> dict[str, Any]:
    merging = config.token_merging
    by_block = isinstance(merging, Sequence) and not isinstance(merging, str)
    return {
        "pooling": tap.pooling,
        "num_hidden_layers": tap.block,
        "token_merging": merging[: tap.block] if by_block else merging,
    }


def _poolings(config: Any) -> list[str]:
    """Return the poolings that the encoder can have without new weights, its own one first."""
    own = config.pooling
    others = ["cls", "mean", "cls_mean"] if config.use_cls_token else ["mean"]
    fixed = config.pre_logits_size or config.final_norm == "pooled"  # weights of the width, or of the kind, of its own
    return [own, *(pooling for pooling in others if pooling != own and not fixed)]


def _pooler(model: ViTCustomForImageClassification, pooling: str) -> nn.Module:
    config: Any = model.config
    if pooling == config.pooling and model.vit.pooler is not None:
        return model.vit.pooler
    return ViTCustomPooler(type(config).from_dict(config.to_dict() | {"pooling": pooling}))
