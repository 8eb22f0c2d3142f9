"""Libra's rules: a backward that is linear in the image, so that evidence and biases add up to the logit.

The forward stays as it is, to the last bit. In the backward, the weights of attention, the deviation that a layer norm
divides by, and the gate of an activation count as constants; of the product of a gated MLP each factor gets half. Then
y = Σ x · ∂y/∂x + Σ b · ∂y/∂b over the inputs x and the biases b (Mehri et al. 2025, LibraGrad, theorems 4 and 5).

Shapes: B batch.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from .context import is_a

_NEAR_ZERO = 1e-6  # closer to 0, the gate act(x) / x is not computed: it is 1/2, as GELU's and SiLU's limit
_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU)


def _same_value(value: torch.Tensor, path: torch.Tensor) -> torch.Tensor:
    """`value`, bit for bit, with the gradient of `path`."""
    return value.detach() + (path - path.detach())


def _norm_rule(module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """A layer norm whose deviation is a constant; its mean is not."""
    given = args[0].permute(0, 2, 3, 1) if is_a(module, "ChannelNorm") else args[0]
    axes = tuple(range(-len(module.normalized_shape), 0))
    centred = given - given.mean(axes, keepdim=True)
    path = centred * (centred.detach().square().mean(axes, keepdim=True) + module.eps).rsqrt()
    path = path if module.weight is None else path * module.weight
    path = path if module.bias is None else path + module.bias
    return _same_value(output, path.permute(0, 3, 1, 2) if is_a(module, "ChannelNorm") else path)


def _gate_rule(_module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """An activation x · gate(x) whose gate is a constant."""
    given, value = args[0].detach(), output.detach()
    near = given.abs() < _NEAR_ZERO
    gate = torch.where(near, 0.5, value / torch.where(near, 1.0, given))
    return _same_value(output, args[0] * gate)


def _half_rule(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The product of two branches: each gets half of its gradient."""
    return (_same_value(args[0], args[0] / 2), *args[1:])


@contextmanager
def linearised(model: nn.Module) -> Iterator[None]:
    """Apply the rules of norms, activations and gated MLPs to every forward inside; attention's is `trace`'s."""
    with ExitStack() as hooks:
        activations: dict[int, nn.Module] = {}
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                hooks.callback(module.register_forward_hook(_norm_rule).remove)
            if isinstance(module, _ELEMENTWISE):
                activations[id(module)] = module
            gated: Any = module
            if is_a(module, "Mlp") or is_a(module, "GatedMlp"):
                activations[id(gated.activation)] = gated.activation
            if is_a(module, "GatedMlp"):
                hooks.callback(gated.down_proj.register_forward_pre_hook(_half_rule).remove)
        for module in activations.values():
            hooks.callback(module.register_forward_hook(_gate_rule).remove)
        yield


class Constants:
    """The part of y that comes from no pixel: biases, prefix tokens and positions; [B], complete after the backward.

    Hooks on the outputs of biased layers sum bias · gradient, image by image.
    """

    def __init__(self) -> None:
        self.share: torch.Tensor | float = 0.0

    def _add(self, tensor: torch.Tensor, factor: torch.Tensor, sign: float = 1.0) -> None:
        """Sum factor · gradient of a tensor [B, …] once the backward reaches it."""
        if not tensor.requires_grad:
            return
        constant = factor.detach()

        def add(gradient: torch.Tensor) -> None:
            self.share = self.share + sign * (gradient * constant).flatten(1).sum(1)

        tensor.register_hook(add)

    def _biased(self, module: Any, _args: Any, output: torch.Tensor) -> None:
        by_channel = isinstance(module, nn.Conv2d) or is_a(module, "ChannelNorm")
        self._add(output, module.bias[:, None, None] if by_channel else module.bias)

    def _joined(self, module: Any, _projection: nn.Module, _args: Any, output: torch.Tensor) -> None:
        """The value's bias of fused projections: weights that add up to 1 pass on all of it."""
        if module.qkv_proj is None or module.qkv_proj.bias is None:
            return
        value = module.qkv_proj.bias[-module.o_proj.in_features :]
        self._add(output, value @ module.o_proj.weight.T)

    def _tokens(self, _module: nn.Module, args: Any, output: Any = None) -> None:
        tokens = args[0] if output is None else output
        self._add(tokens, tokens)

    def _patches(self, _module: nn.Module, _args: Any, output: torch.Tensor) -> None:
        self._add(output, output, -1.0)

    @contextmanager
    def watched(self, model: Any, encoder: Any) -> Iterator[None]:
        """Count the forward inside. Enter it after `linearised`: hooks see what the hooks before them return."""
        fused = {id(module.qkv_proj) for module in model.modules() if getattr(module, "qkv_proj", None) is not None}
        with ExitStack() as hooks:
            embeddings = encoder.embeddings
            for module in model.modules():
                has_bias = isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm) and module.bias is not None
                if has_bias and id(module) not in fused:
                    hooks.callback(module.register_forward_hook(self._biased).remove)
                if is_a(module, "ViTCustomAttention"):
                    hooks.callback(module.o_proj.register_forward_hook(partial(self._joined, module)).remove)
            hooks.callback(embeddings.patch_embeddings.register_forward_hook(self._patches).remove)
            if embeddings.layernorm is None:
                hooks.callback(embeddings.register_forward_hook(self._tokens).remove)
            else:
                hooks.callback(embeddings.layernorm.register_forward_pre_hook(self._tokens).remove)
            yield
