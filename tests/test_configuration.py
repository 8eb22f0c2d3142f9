"""The configuration: round trips, variants, and one clear error for each impossible value."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from modeling_vit_custom import VARIANTS, ViTCustomConfig, ViTCustomForImageClassification
from modeling_vit_custom.auto_classes_vit_custom import AUTO_MAP, CUSTOM_PIPELINES

ROOT = Path(__file__).parent.parent

IMPOSSIBLE = [
    ({"hidden_size": 33, "num_attention_heads": 2}, "num_attention_heads=2: must divide hidden_size=33"),
    ({"hidden_size": "64"}, "hidden_size"),
    ({"hidden_size": 0}, "hidden_size=0"),
    ({"hidden_size": 10_000_000}, "hidden_size=10000000: must be from 1 to 16384"),
    ({"num_hidden_layers": -1}, "num_hidden_layers=-1"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000"),
    ({"num_attention_heads": 0}, "num_attention_heads=0"),
    ({"intermediate_size": -4}, "intermediate_size=-4"),
    ({"num_channels": 0}, "num_channels=0"),
    ({"image_size": 8}, "image_size=8: must hold one patch of patch_size=16"),
    ({"image_size": (224, 8)}, "must hold one patch"),
    ({"image_size": 0}, "image_size=0"),
    ({"image_size": [224]}, "image_size"),
    ({"image_size": (224, 224, 3)}, "image_size"),
    ({"image_size": 100_000}, "image_size=100000"),
    ({"image_size": 32_768, "patch_size": 1}, "patches: use a larger one"),
    ({"patch_size": 0}, "patch_size=0"),
    ({"patch_size": -16}, "patch_size=-16"),
    ({"stem": "conv", "patch_size": 12}, "patch_size=12: stem='conv'"),
    ({"stem": "conv", "patch_size": 1}, "patch_size=1: stem='conv'"),
    ({"stem": "resnet"}, "stem"),
    ({"layer_norm_eps": math.nan}, "layer_norm_eps=nan"),
    ({"layer_norm_eps": 0.0}, "layer_norm_eps=0.0"),
    ({"initializer_range": math.inf}, "initializer_range=inf"),
    ({"drop_path_rate": 1.0}, "drop_path_rate=1.0"),
    ({"hidden_dropout_prob": -0.1}, "hidden_dropout_prob=-0.1"),
    ({"layer_scale_init_value": 0.0}, "layer_scale_init_value=0.0"),
    ({"layer_scale_init_value": math.nan}, "layer_scale_init_value=nan"),
    ({"hidden_act": "gellu"}, "hidden_act='gellu'"),
    ({"pooling": "max"}, "pooling"),
    ({"pooling": "cls", "use_cls_token": False}, "pooling='cls': needs use_cls_token=True"),
    ({"position_interpolation": "lanczos"}, "position_interpolation='lanczos'"),
    ({"position_interpolation": "computed"}, "position_interpolation='computed': needs position_embedding='sincos2d'"),
    (
        {"position_interpolation": "computed", "position_embedding": "none"},
        "position_interpolation='computed': .* use it, or a rule of resampling",
    ),
    ({"position_embedding": "sincos2d", "hidden_size": 30, "num_attention_heads": 2}, "hidden_size=30"),
    ({"num_labels": -1}, "num_labels=-1"),
    ({"num_labels": 10**9}, "num_labels=1000000000"),
    ({"num_labels": 4, "id2label": {0: "a", 1: "b"}}, "num_labels=4: id2label has 2 entries"),
    ({"id2label": {0: "a", 5: "b"}}, "without gaps"),
    ({"id2label": {1: "a", 2: "b"}}, "ids must be 0 to 1"),
    ({"id2label": {0: "<script>", 1: "b"}}, "id2label.0.='<script>'"),
    ({"id2label": {0: "a\nb", 1: "b"}}, "control characters"),
    ({"id2label": {0: "a\u202eb", 1: "b"}}, "control characters"),
    ({"id2label": {0: " ", 1: "b"}}, "non-empty"),
    ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}}, "inverse of id2label"),
    ({"problem_type": "ranking"}, "problem_type"),
    ({"num_labels": "3"}, "num_labels='3': must be a whole number"),
    ({"num_labels": 2.5}, "num_labels=2.5: must be a whole number"),
    ({"num_labels": True}, "num_labels=True: must be a whole number"),
    ({"num_labels": None}, "num_labels=None: must be a whole number"),
    ({"id2label": ["a", "b"]}, "id2label"),
    ({"id2label": "cat"}, "id2label"),
    ({"id2label": {"cat": 0}}, "id2label"),
    ({"id2label": {0.5: "a"}}, "id2label"),
    ({"id2label": {0: "a", "0": "b"}}, "id2label"),
    ({"label2id": ["a", "b"]}, "label2id"),
    ({"label2id": {"a": "x"}}, "label2id='x': an id must be a whole number"),
    ({"id2label": {0: "a\ud800", 1: "b"}}, "control characters"),
    ({"id2label": {0: "a\u2028b", 1: "b"}}, "control characters"),
]


@pytest.mark.parametrize(("fields", "message"), IMPOSSIBLE, ids=[str(fields) for fields, _ in IMPOSSIBLE])
def test_impossible_values_name_field_value_and_fix(fields, message):
    with pytest.raises(Exception, match=message) as error:
        ViTCustomConfig(**fields)
    assert isinstance(error.value, ValueError | TypeError) or "ValidationError" in type(error.value).__name__


def test_overrides_at_load_are_validated_too(tmp_path):
    ViTCustomConfig().save_pretrained(tmp_path)
    with pytest.raises(Exception, match="num_attention_heads=7: must divide hidden_size=768"):
        ViTCustomConfig.from_pretrained(tmp_path, num_attention_heads=7)


def test_a_config_spoilt_later_is_refused_before_the_model_allocates():
    config = ViTCustomConfig()
    config.patch_size = 0
    with pytest.raises(Exception, match="patch_size=0"):
        ViTCustomForImageClassification(config)


def test_images_that_are_not_whole_patches_warn(caplog, monkeypatch):
    warnings = []
    monkeypatch.setattr(
        "modeling_vit_custom.configuration_vit_custom.logger.warning_once", lambda text, *_: warnings.append(text)
    )
    config = ViTCustomConfig(image_size=(230, 224))
    assert config.grid_hw == (14, 14)
    assert len(warnings) == 1 and "first 224x224 pixels" in warnings[0]


def test_repeated_label_names_warn_and_load(monkeypatch, tmp_path):
    warnings = []
    monkeypatch.setattr(
        "modeling_vit_custom.labels_vit_custom.logger.warning_once", lambda text, *_: warnings.append(text)
    )
    ViTCustomConfig(id2label={0: "crane", 1: "crane", 2: "owl"}).save_pretrained(tmp_path)
    loaded = ViTCustomConfig.from_pretrained(tmp_path)
    assert loaded.id2label == {0: "crane", 1: "crane", 2: "owl"}
    assert any("crane" in text for text in warnings)


@pytest.mark.parametrize("size", VARIANTS)
def test_variants_build_and_count_their_parameters(size):
    patch = 4 if VARIANTS[size][4] else 16
    classes = 10 if VARIANTS[size][4] else 1000
    config = ViTCustomConfig.from_variant(f"{size}/{patch}", num_labels=classes)
    with torch.device("meta"):
        parameters = ViTCustomForImageClassification(config).num_parameters()
    # Millions: Steiner et al. 2021, table 2; the small-image ones, with ten classes, as stated in the README.
    published = {"nano": 0.35, "micro": 0.89, "mini": 4.06, "ti": 5.8, "s": 22.2, "b": 86.6, "l": 304.4, "h": 632.8}
    assert parameters / 1e6 == pytest.approx(published[size], rel=0.02)


@pytest.mark.parametrize("name", ["xl/16", "s", "s/", "s/p", "16/s"])
def test_unknown_variants_list_the_known_ones(name):
    with pytest.raises(ValueError, match="nano, micro, mini, ti, s, b, l, h"):
        ViTCustomConfig.from_variant(name)


def test_round_trip_keeps_every_field(tmp_path, any_config):
    any_config.id2label = {0: "a", 1: "b", 2: "ü", 3: "d e", 4: "10"}
    any_config.label2id = {name: i for i, name in any_config.id2label.items()}
    any_config.save_pretrained(tmp_path)
    loaded = ViTCustomConfig.from_pretrained(tmp_path)
    assert {**loaded.to_dict(), "_name_or_path": ""} == {**any_config.to_dict(), "_name_or_path": ""}


def test_label_maps_are_derived_from_each_other():
    assert ViTCustomConfig(id2label={"0": "a", "1": "b"}).label2id == {"a": 0, "b": 1}
    assert ViTCustomConfig(label2id={"a": "0", "b": "1"}).id2label == {0: "a", 1: "b"}


def test_new_labels_at_load_replace_the_stored_ones(tmp_path):
    ViTCustomConfig(id2label={0: "a", 1: "b"}).save_pretrained(tmp_path)
    assert ViTCustomConfig.from_pretrained(tmp_path, num_labels=2).id2label == {0: "a", 1: "b"}
    assert ViTCustomConfig.from_pretrained(tmp_path, num_labels=3).label2id == {f"LABEL_{i}": i for i in range(3)}
    assert ViTCustomConfig.from_pretrained(tmp_path, id2label={0: "x", 1: "y", 2: "z"}).num_labels == 3


def test_fewer_layers_at_load_move_the_backbone_stage(tmp_path):
    ViTCustomConfig().save_pretrained(tmp_path)
    loaded = ViTCustomConfig.from_pretrained(tmp_path, num_hidden_layers=4)
    assert loaded.out_features == ["stage4"] and len(loaded.stage_names) == 5
    chosen = ViTCustomConfig.from_pretrained(tmp_path, num_hidden_layers=4, out_features=["stage1", "stage2"])
    assert chosen.out_features == ["stage1", "stage2"] and chosen.out_indices == [1, 2]


def test_a_depth_changed_after_construction_saves_and_loads(tmp_path):
    """`stage_names` follow the depth; stored ones, and the stages chosen among them, are of the old depth."""
    config = ViTCustomConfig()
    config.num_hidden_layers = 4
    config.save_pretrained(tmp_path)
    loaded = ViTCustomConfig.from_pretrained(tmp_path)
    assert loaded.stage_names == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert loaded.out_features == ["stage4"]


def test_names_may_hold_joiners(tmp_path):
    """They are letters of Persian words and of emoji, unlike the other invisible format characters."""
    names = {0: "می\u200cخواهم", 1: "👨\u200d👩\u200d👧"}
    ViTCustomConfig(id2label=names).save_pretrained(tmp_path)
    assert ViTCustomConfig.from_pretrained(tmp_path).id2label == names


def test_auto_map_of_a_saved_config_names_only_files_that_are_there(tmp_path):
    ViTCustomConfig().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["auto_map"] == {"AutoConfig": AUTO_MAP["AutoConfig"]}
    assert (tmp_path / "configuration_vit_custom.py").is_file()


def test_root_config_json_is_the_default_configuration():
    stored = json.loads((ROOT / "config.json").read_text())
    expected = json.loads(ViTCustomConfig().to_json_string())
    auto_map, pipelines = stored.pop("auto_map"), stored.pop("custom_pipelines")
    expected.pop("transformers_version")
    assert stored == expected
    assert auto_map == {name: f"modeling_vit_custom/{target}" for name, target in AUTO_MAP.items()}
    assert pipelines == {
        task: entry | {"impl": f"modeling_vit_custom/{entry['impl']}"} for task, entry in CUSTOM_PIPELINES.items()
    }


def test_auto_config_knows_the_model_type(tmp_path):
    ViTCustomConfig(num_labels=7).save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is ViTCustomConfig and loaded.num_labels == 7
