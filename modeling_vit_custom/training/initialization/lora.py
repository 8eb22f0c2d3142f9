"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685) by peft, inside our model; a saved model has them merged.

Shapes: D_in, D_out of a linear layer, r rank.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ...common.errors import UsageError
from ...common.fingerprint import digest

_NAME = "default"  # peft's name of the only adapter


def add_adapters(model: Any, rank: int, alpha: float, dropout: float, targets: Sequence[str] | None = None) -> None:
    """Freeze the encoder and add adapters B·A·alpha/r, [D_out, r]·[r, D_in], to the linear layers of its blocks.

    Everything after the encoder is trained as it is. targets: names of layers, such as q_proj; None: all.
    Raises UsageError for a target that no block has.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = [name for name, module in model.vit.layers.named_modules() if isinstance(module, nn.Linear)]
    present = {name.rpartition(".")[2] for name in linear}
    if missing := sorted(set(targets or ()) - present):
        raise UsageError(f"--lora_targets {missing[0]} is no layer of a block: {', '.join(sorted(present))} are.")
    chosen = [f"vit.layers.{name}" for name in linear if targets is None or name.rpartition(".")[2] in targets]
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=chosen)  # type: ignore[arg-type]
    inject_adapter_in_model(config, model, adapter_name=_NAME)
    for name, parameter in model.named_parameters():
        if not name.startswith("vit."):
            parameter.requires_grad_(True)


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """Return the layers that have an adapter, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def merged(state: Mapping[str, torch.Tensor], layers: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the state dict with the adapters merged, as a plain model has it: weights W + alpha/r·B·A."""
    plain = {plain_name(name): tensor for name, tensor in state.items() if not is_adapter(name)}
    for name, layer in layers.items():
        if f"{name}.weight" in plain:  # processes other than the first may hold no weights
            down, up = (state[f"{name}.lora_{part}.{_NAME}.weight"] for part in "AB")
            plain[f"{name}.weight"] = plain[f"{name}.weight"] + layer.scaling[_NAME] * (up @ down)
    return plain


def is_adapter(name: str) -> bool:
    return f".lora_A.{_NAME}." in name or f".lora_B.{_NAME}." in name


def plain_name(name: str) -> str:
    """Return the name of a parameter in the model without adapters."""
    return name.replace(".base_layer.", ".")


def frozen_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the frozen weights: adapters fit only the weights that they were trained on."""
    return digest({plain_name(name): p for name, p in model.named_parameters() if not p.requires_grad})
