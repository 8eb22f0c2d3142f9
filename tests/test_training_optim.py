"""Weight decay falls on weight matrices and on nothing else."""

import pytest
from real_digits import write_class_folder
from tiny_training import tiny_trainer

from modeling_vit_custom.configuration_vit_custom import ViTCustomConfig
from modeling_vit_custom.modeling_vit_custom import ViTCustomForImageClassification, ViTCustomForMaskedImageModeling
from modeling_vit_custom.training.optim import decay_parameter_names

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
