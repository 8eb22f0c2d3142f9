"""Maps that other libraries draw of a model of `explain_bed`, and the plain gradient's, as means of patches.

Shapes: N scenes, C channels, S x S pixels, h x w cells of a map.
"""

from typing import Any

import numpy as np
import torch

from modeling_vit_custom.explanation.methods.context import encoder_of, prepared
from modeling_vit_custom.explanation.methods.gradient_maps import by_block
from modeling_vit_custom.explanation.methods.maps import patch_sums
from modeling_vit_custom.explanation.methods.peers import outputs_alone, reshape_transform, target_layers
from modeling_vit_custom.explanation.methods.trace import traced

CAMS = ("GradCAM", "HiResCAM", "GradCAMPlusPlus", "XGradCAM", "LayerCAM", "EigenCAM", "EigenGradCAM")
ATTRIBUTIONS = ("Saliency", "InputXGradient", "DeepLift", "GradientShap", "IntegratedGradients", "Occlusion")
PEERS = ("FullGrad+", *CAMS, "GradCAM of all blocks", "LayerCAM of all blocks", *ATTRIBUTIONS)
STEPS = 20  # of integrated gradients, and samples of GradientShap


def peer_maps(name: str, model: Any, images: torch.Tensor, targets: list[int]) -> np.ndarray:
    """Return the maps [N, h, w] of one of PEERS for images [N, C, S, S] and a class each."""
    parts = [(images[n : n + 20], targets[n : n + 20]) for n in range(0, len(images), 20)]
    of = _plain if name == "FullGrad+" else _captum if name in ATTRIBUTIONS else _cam
    return torch.cat([of(name, model, *part) for part in parts]).numpy()


def _cam(name: str, model: Any, images: torch.Tensor, targets: list[int]) -> torch.Tensor:
    """pytorch-grad-cam, on what the last block's attention reads, or every block's, which it averages."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    kind, _, every = name.partition(" of ")
    layers = [block.layernorm_before for block in encoder_of(model).layers] if every else target_layers(model)
    size = tuple(images.shape[2:])
    with getattr(pytorch_grad_cam, kind)(
        model=outputs_alone(model), target_layers=layers, reshape_transform=reshape_transform(model, size)
    ) as cam:
        drawn = cam(input_tensor=images, targets=[ClassifierOutputTarget(target) for target in targets])
    return _cells(torch.from_numpy(drawn)[:, None], model)


def _captum(name: str, model: Any, images: torch.Tensor, targets: list[int]) -> torch.Tensor:
    """captum, from the mean colour."""
    import captum.attr

    method, given = getattr(captum.attr, name)(outputs_alone(model)), {}
    base = torch.zeros_like(images)
    if name == "IntegratedGradients":
        given = {"baselines": base, "n_steps": STEPS, "internal_batch_size": len(images)}
    elif name == "GradientShap":
        torch.manual_seed(0)
        given = {"baselines": base[:1], "n_samples": STEPS}
    elif name == "DeepLift":
        given = {"baselines": base}
    elif name == "Occlusion":
        patch = (images.shape[1], *model.config.patch_hw)
        given = {"baselines": 0, "sliding_window_shapes": patch, "strides": patch, "perturbations_per_eval": 8}
    found = method.attribute(images.clone().requires_grad_(name != "Occlusion"), target=torch.tensor(targets), **given)
    return _cells(found.detach(), model)


def _cells(values: torch.Tensor, model: Any) -> torch.Tensor:
    size = tuple(values.shape[2:])
    return patch_sums(values, model.config.grid_of(size), size)


def _plain(_name: str, model: Any, images: torch.Tensor, targets: list[int]) -> torch.Tensor:
    """FullGrad+ without biases and without Libra's rules: what `libra` would be with the plain gradient."""
    with prepared(model):
        with traced(model, encoder_of(model)) as trace:
            score = model(pixel_values=images).logits[range(len(images)), targets].sum()
        gradients = torch.autograd.grad(score, trace.inputs)
        layers = by_block(trace, [z * g for z, g in zip(trace.inputs, gradients, strict=True)])
    return layers.clamp_min(0).sum(0)
