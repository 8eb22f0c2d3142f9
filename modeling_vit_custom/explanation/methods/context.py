"""A model made ready to be explained, and all that is changed for it put back, also after an exception.

Shapes: B batch, C channels, H×W pixels.
"""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ...common.errors import UsageError
from ...quantized_vit_custom import is_ordinary
from ...token_merging_vit_custom import Tokens, unmerge

_LOCK = threading.RLock()  # hooks belong to the model: two explanations at once would see one another's


def is_a(module: Any, name: str) -> bool:
    """Return whether a module is of the class `name`, of this package or of the code that came with a checkpoint."""
    return any(kind.__name__ == name for kind in type(module).__mro__)


def unwrapped(model: Any) -> nn.Module:
    """Return the model inside a compiled or parallel one.

    Raises UsageError for anything that is no module.
    """
    while (inner := getattr(model, "_orig_mod", None) or _inside_parallel(model)) is not None:
        model = inner
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"{type(model).__name__} is no torch model: explain the model that it was made from, "
            "as `modeling_vit_custom.api.load` returns it."
        )
    return model


def _inside_parallel(model: Any) -> Any:
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, parallel) else None


def encoder_of(model: nn.Module) -> Any:
    """Return the encoder of this package inside a model; None for a model of another kind."""
    return next((module for module in model.modules() if is_a(module, "ViTCustomModel")), None)


def lacks_gradients(model: nn.Module) -> str | None:
    """Return why no gradient passes through a model, for an error's text; None if it does."""
    parameters = list(model.parameters())
    if not parameters:
        return "runs in another runtime and has no gradients"
    if any(parameter.is_meta for parameter in parameters):
        return "is offloaded"
    if not all(map(is_ordinary, parameters)) or any(_is_integer(module) for module in model.modules()):
        return "is quantised and has no exact gradients"
    return None


def _is_integer(module: nn.Module) -> bool:
    """Whether a layer's weights are stored as integers."""
    weight = getattr(module, "weight", None)
    return torch.is_tensor(weight) and not weight.is_floating_point()


def in_full_precision(model: nn.Module) -> tuple[nn.Module, bool]:
    """Return (the model, False), or (a float32 copy of it, True) if some of its parameters have half precision."""
    halves = {torch.float16, torch.bfloat16}
    if not any(parameter.dtype in halves for parameter in model.parameters()):
        return model, False
    return copy.deepcopy(model).float(), True


def twin_of(model: nn.Module) -> nn.Module:
    """Return a model with the same weights in the same memory, which has all else for itself: hooks, modes, settings.

    While one thread explains it, others can answer with `model`: they see nothing of what an explanation changes.
    """
    shared: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    shared |= {id(one): nn.Parameter(one.detach(), requires_grad=False) for one in model.parameters()}
    return copy.deepcopy(model, shared)


@contextmanager
def prepared(model: nn.Module) -> Iterator[None]:
    """Hold the model in eval mode, without gradients of parameters and without compiled code, while gradients are on.

    Dropout, stochastic depth, patch dropout and gradient checkpointing are thereby off. One thread at a time is inside.
    """
    modules, parameters = list(model.modules()), list(model.parameters())
    with _LOCK, ExitStack() as restored:
        training = [(module, module.training) for module in modules]
        needed = [(parameter, parameter.requires_grad) for parameter in parameters]
        gradients = [(parameter, parameter.grad) for parameter in parameters]
        compiled = [(module, module._compiled_call_impl) for module in modules if module._compiled_call_impl]

        def put_back() -> None:
            for module, mode in training:
                module.training = mode
            for parameter, wanted in needed:
                parameter.requires_grad_(wanted)
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for module, call in compiled:
                module._compiled_call_impl = call

        restored.callback(put_back)
        for module in modules:
            module.training = False
        for parameter in parameters:
            parameter.requires_grad_(False)
        for module, _ in compiled:
            module._compiled_call_impl = None
        kind = parameters[0].device.type if parameters else "cpu"
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(kind, enabled=False):
            yield


def answer_from(model: nn.Module, encoder: Any, pixels: torch.Tensor, hidden: torch.Tensor, tokens: Tokens) -> Any:
    """Return the outputs that the model's head gives for hidden states [B, N, D] of any block.

    The encoder's final norm, its pooling and the head act as in the model; its blocks do not run.
    pixels: [B, C, H, W].   tokens: the state of the N tokens.
    """
    normed = encoder.layernorm(hidden)
    pooled = None if encoder.pooler is None else encoder.pooler(normed, tokens.sizes)
    every = normed if normed.shape[1] != _length(tokens, hidden) else unmerge(normed, tokens)
    given = BaseModelOutputWithPooling(last_hidden_state=every, pooler_output=pooled)
    with _forward_replaced(encoder, lambda *_args, **_kwargs: given):
        return model(pixel_values=pixels)


def _length(tokens: Tokens, hidden: torch.Tensor) -> int:
    return hidden.shape[1] if tokens.sizes is None else tokens.sizes.shape[1]


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
