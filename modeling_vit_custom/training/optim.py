"""Which parameters weight decay shrinks."""

from torch import nn

MATRICES = (nn.Linear, nn.Conv2d)


def decay_parameter_names(model: nn.Module) -> list[str]:
    """The weights of linear and convolution layers, by name; everything else is left to find its own scale.

    So biases, norms, class and mask tokens, registers, learned positions, pooling queries and LayerScale are
    never decayed. (Trainer spares biases and norms only.)
    """
    return [
        f"{name}.weight" if name else "weight" for name, module in model.named_modules() if isinstance(module, MATRICES)
    ]
