"""Weight decay applies only to weight matrices; earlier layers have learning rates lower by a constant factor."""

import pytest
import torch
from real_digits import write_class_folder
from tiny_training import tiny_trainer

from modeling_vit_custom import ViTCustomForImageClassification, ViTCustomForMaskedImageModeling
from modeling_vit_custom.configuration_vit_custom import ViTCustomConfig
from modeling_vit_custom.training.optimization.parameter_groups import (
    decay_learning_rates,
    decay_parameter_names,
    depth_of,
)

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 8,
    "patch_size": 4,
    "layer_scale_init_value": 0.1,
    "num_register_tokens": 2,
}


@pytest.mark.parametrize(
    ("model_class", "options"),
    [
        (ViTCustomForImageClassification, {}),
        (ViTCustomForImageClassification, {"pooling": "map", "stem": "conv"}),
        (ViTCustomForMaskedImageModeling, {}),
    ],
)
def test_what_is_decayed(model_class, options):
    model = model_class(ViTCustomConfig(**TINY, **options))
    decayed = set(decay_parameter_names(model))
    parameters = dict(model.named_parameters())
    assert decayed <= set(parameters)
    spared = set(parameters) - decayed
    for name in decayed:
        assert name.endswith(".weight") and parameters[name].ndim >= 2, name
    for name, parameter in parameters.items():
        if name.split(".")[-1] in ("bias", "lambda1") or parameter.ndim == 1:
            assert name in spared, name
    bare = [name for name in parameters if name.split(".")[-1] not in ("weight", "bias")]
    assert {"cls_token", "register_tokens", "position_embeddings"} <= {name.split(".")[-1] for name in bare}
    assert set(bare) <= spared
    for kind in ("q_proj.weight", "fc1.weight", "fc2.weight"):
        assert any(name.endswith(kind) for name in decayed)


def test_the_trainer_uses_it(tmp_path):
    data = write_class_folder(tmp_path / "d", {"0": 4, "1": 4})
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", data, "--weight_decay", 0.3)
    groups = trainer.create_optimizer().param_groups
    decay_of = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        assert decay_of[parameter] == (0.3 if name in decay_parameter_names(trainer.model) else 0.0), name


@pytest.mark.parametrize("options", [{}, {"pooling": "map", "stem": "conv", "pre_logits_size": 8}])
def test_learning_rates_fall_by_a_factor_from_layer_to_layer(options):
    model = ViTCustomForImageClassification(ViTCustomConfig(**TINY, **options))
    decayed = set(decay_parameter_names(model))
    groups = [[], []]
    for name, parameter in model.named_parameters():
        groups[name in decayed].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": 0.0}, {"params": groups[1], "weight_decay": 0.3}], lr=1.0
    )
    decay_learning_rates(optimizer, model, model.config.num_hidden_layers, 0.5)
    settings = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    depths = {
        "embeddings": 0,
        "layers.0": 1,
        "layers.1": 2,
        "layernorm": 3,
        "pooler": 3,
        "pre_logits": 3,
        "classifier": 3,
    }
    for name, parameter in model.named_parameters():
        depth = next(d for prefix, d in depths.items() if name.removeprefix("vit.").startswith(prefix))
        assert depth_of(name, 2) == depth
        assert settings[parameter]["lr"] == 0.5 ** (3 - depth), name
        assert settings[parameter]["weight_decay"] == (0.3 if name in decayed else 0.0), name
    assert optimizer.param_groups[0]["lr"] == 1.0
    assert (
        len(settings) == len(list(model.parameters())) == sum(len(group["params"]) for group in optimizer.param_groups)
    )
