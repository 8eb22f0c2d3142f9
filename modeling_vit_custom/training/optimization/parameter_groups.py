"""The parameters that weight decay applies to, and the learning rate of each depth of the network.

Shapes: L blocks.
"""

import re

from torch import nn
from torch.optim import Optimizer

MATRICES = (nn.Linear, nn.Conv2d)
_BLOCK = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_EMBEDDINGS = re.compile(r"(?:^|\.)embeddings\.")


def decay_parameter_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters that weight decay applies to: the weights of linear and convolution layers.

    Biases, norms, class and mask tokens, registers, learned positions, pooling queries and LayerScale are never
    decayed. (Trainer exempts biases and norms only.)
    """
    return [
        f"{name}.weight" if name else "weight" for name, module in model.named_modules() if isinstance(module, MATRICES)
    ]


def block_matrices(model: nn.Module) -> set[nn.Parameter]:
    """Return the weights of the linear layers in the encoder's blocks."""
    linear = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return {module.weight for name, module in linear if _BLOCK.search(name)}


def depth_of(name: str, num_layers: int) -> int:
    """Return a parameter's depth: 0 for embeddings, 1 to L for blocks, L + 1 for what comes after them."""
    if _EMBEDDINGS.search(name):  # a convolutional stem has layers of its own
        return 0
    block = _BLOCK.search(name)
    return int(block[1]) + 1 if block else num_layers + 1


def decay_learning_rates(optimizer: Optimizer, model: nn.Module, num_layers: int, layer_decay: float) -> None:
    """Split the groups of a fresh optimizer by depth, in place; multiply rates by layer_decay ** (L + 1 - depth).

    Fine-tuning then changes early blocks, which are general, less than late ones (ELECTRA, arXiv 2003.10555; for ViTs
    BEiT, arXiv 2106.08254). The head's group comes first: its learning rate is the one that Trainer logs.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    split = []
    for group in optimizer.param_groups:
        depths: dict[int, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            depths.setdefault(depth_of(names[parameter], num_layers), []).append(parameter)
        for depth, parameters in depths.items():
            scale = layer_decay ** (num_layers + 1 - depth)
            split.append({**group, "params": parameters, "lr": group["lr"] * scale})
    optimizer.param_groups[:] = sorted(split, key=lambda group: -group["lr"])
