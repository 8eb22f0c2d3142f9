"""The places in a frozen encoder where features are taken, and the smaller model that outputs just these.

Shapes: B batch, N tokens, D width, W the features of all taps side by side.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..configuration_vit_custom import POOLINGS
from ..pooling_vit_custom import ViTCustomPooler
from ..pretrained_vit_custom import ViTCustomPreTrainedModel

SINGLE = ("cls", "mean")  # poolings of one token's width; "cls_mean" concatenates them


@dataclass(frozen=True)
class Tap:
    """A place where features are taken.

    block: the block after which, counted from 1.   pooling: a value of the configuration's `pooling`.
    """

    block: int
    pooling: str

    def __str__(self) -> str:
        return f"{self.pooling} of block {self.block}"


class Taps:
    """The features of an encoder: all poolings it can have, after each block of its second half.

    A model with pre_logits has features after its last block alone.   taps: the model's own first.   width: W.
    """

    def __init__(self, model: ViTCustomPreTrainedModel):
        self.model: Any = model
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
        """Return the meaning of a row's columns, fit for JSON."""
        return {"blocks": list(self.blocks), "poolings": self._parts}

    def columns(self, tap: Tap) -> slice:
        """Return the slice of the W columns that holds the features of one tap."""
        start = self.blocks.index(tap.block) * self._block_width
        inside = "cls" if tap.pooling not in self._starts else tap.pooling
        start += self._starts[inside]
        return slice(start, start + pooled_size(self.model.config, tap.pooling))

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the features float32 [B, W] of images [B, C, H, W'], all from one forward."""
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

                def keep(_module: nn.Module, args: Any, output: torch.Tensor, block: int = block) -> None:
                    _, tokens, step = args
                    pool(block, output, (step.left or tokens).sizes)

                handles.callback(self.model.vit.layers[block - 1].register_forward_hook(keep).remove)
            yield seen


def narrowed(model: ViTCustomPreTrainedModel, tap: Tap) -> ViTCustomPreTrainedModel:
    """Return a model with the weights of `model` whose pooled vector is the features of `tap`; its head is new."""
    config: Any = type(model.config).from_dict(model.config.to_dict() | _fields(model.config, tap))
    config.dtype = model.config.dtype
    other = type(model)(config)
    wanted, have = other.state_dict(), model.state_dict()
    kept = {name: have[name] for name in wanted if not name.startswith(model.label_prefixes)}
    head = {name: tensor for name, tensor in wanted.items() if name.startswith(model.label_prefixes)}
    other.load_state_dict(kept | head)
    module: nn.Module = other  # transformers wraps `to`
    module.to(dtype=model.dtype, device=model.device)
    return other.train(model.training)


def pooled_size(config: Any, pooling: str) -> int:
    """Return the width of the classifier's input with this pooling."""
    return config.pre_logits_size or config.hidden_size * POOLINGS[pooling].width


def _fields(config: Any, tap: Tap) -> dict[str, Any]:
    merging = config.token_merging
    by_block = isinstance(merging, Sequence) and not isinstance(merging, str)
    return {
        "pooling": tap.pooling,
        "num_hidden_layers": tap.block,
        "token_merging": merging[: tap.block] if by_block else merging,
        "unknown": None,
    }


def _poolings(config: Any) -> list[str]:
    """The poolings that the encoder can have without new weights, its own first."""
    own = config.pooling
    others = ["cls", "mean", "cls_mean"] if config.use_cls_token else ["mean"]
    fixed = config.pre_logits_size or config.final_norm == "pooled"  # these weights fit its own pooling alone
    return [own, *(pooling for pooling in others if pooling != own and not fixed)]


def _pooler(model: Any, pooling: str) -> nn.Module:
    config = model.config
    if pooling == config.pooling and model.vit.pooler is not None:
        return model.vit.pooler
    return ViTCustomPooler(type(config).from_dict(config.to_dict() | {"pooling": pooling}))
