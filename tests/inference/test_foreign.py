"""Another library's configuration cannot choose code or files to load, and no model larger than its files is built."""

import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from attacks import FOREIGN, WEIGHTS, fields, split_file, with_header
from conversion_sources import SOURCES
from safetensors.torch import load_file, save_file
from saved_models import DIGITS, save_resnet, save_transformers_vit
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoModelForImageClassification,
    CLIPConfig,
    CLIPForImageClassification,
    CLIPImageProcessor,
)

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.conversion.build import build
from modeling_vit_custom.conversion.check import compare
from modeling_vit_custom.conversion.convert import convert
from modeling_vit_custom.conversion.engine import ConversionError
from modeling_vit_custom.conversion.google import read_npz
from modeling_vit_custom.conversion.meta import read_pth
from modeling_vit_custom.conversion.sources import open_source
from modeling_vit_custom.inference import foreign
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.tasks.classification_demo import refuse_other_code
from modeling_vit_custom.training.objectives.teacher_loading import read_state, teacher_of

KERNELS = {
    "public": {"attn_implementation": "someone/kernel"},
    "private": {"_attn_implementation": "someone/kernel"},
    "internal": {"_attn_implementation_internal": "kernels-community/flash-attn"},
    "by part": {"attn_implementation": {"": "kernels-community/flash-attn2@v1:forward"}},
    "paged": {"attn_implementation": "paged|someone/kernel"},
    "experts": {"experts_implementation": "someone/kernel", "_experts_implementation_internal": "someone/kernel"},
    "installed": {"attn_implementation": "flash_attention_2"},
    "layers": {"per_layer_config": {"0": {"attn_implementation": "someone/kernel"}}},
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return save_transformers_vit(tmp_path_factory.mktemp("vit") / "sound")


@pytest.fixture(scope="module")
def sound_clip(tmp_path_factory) -> Path:
    """Save a classifier whose configuration has parts."""
    folder = tmp_path_factory.mktemp("clip") / "sound"
    tower = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    text = {**tower, "vocab_size": 16, "max_position_embeddings": 8}
    config = CLIPConfig(vision_config=vision, text_config=text, id2label=DIGITS)
    CLIPForImageClassification(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


@pytest.fixture
def said(monkeypatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(foreign.logger, "warning", messages.append)
    return messages


# ---------- code and files that a configuration names


@pytest.mark.parametrize("keys", KERNELS.values(), ids=KERNELS)
def test_no_kernel_that_a_configuration_names_is_obeyed(folder, said, keys):
    fields("config.json", **keys)(folder)
    model, _ = load_classifier(str(folder), device="cpu")
    assert model.config._attn_implementation == "sdpa"
    assert "attn_implementation" in said[0] or "experts_implementation" in said[0]
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 16, 16)).logits.shape == (1, 10)


def test_transformers_alone_obeys_it(folder):
    fields("config.json", **KERNELS["public"])(folder)
    with pytest.raises((ImportError, ValueError, OSError), match="kernel"):
        AutoModelForImageClassification.from_pretrained(folder)


@pytest.mark.parametrize("keys", [KERNELS["public"], KERNELS["private"]])
@pytest.mark.parametrize("part", ["vision_config", "text_config"])
def test_a_kernel_named_by_a_part_is_not_obeyed_either(sound_clip, tmp_path, said, part, keys):
    folder = Path(shutil.copytree(sound_clip, tmp_path / "clip"))
    stored = CLIPConfig.from_pretrained(folder).to_dict()[part]
    fields("config.json", **{part: {**stored, **keys}})(folder)
    model, _ = load_classifier(str(folder), device="cpu")
    assert model.config._attn_implementation == model.config.vision_config._attn_implementation == "sdpa"
    assert model.config.text_config._attn_implementation in (None, "sdpa")  # the text part is not in the model
    report = convert(str(folder), tmp_path / "converted", {}, check=True)
    assert report["check"]["passed"] and len(said) == 2


def test_convert_and_distillation_obey_none(folder, tmp_path, said):
    fields("config.json", **KERNELS["public"], transformers_weights="sub/other.safetensors")(folder)
    assert convert(str(folder), tmp_path / "converted", {}, check=True)["check"]["passed"]
    assert teacher_of(str(folder), None, {}).count == 10
    assert len(said) == 2 and all("attn_implementation, transformers_weights" in message for message in said)


def test_weights_are_those_of_the_usual_name(folder, tmp_path):
    expected = load_classifier(str(folder), device="cpu")[0].state_dict()
    (folder / "other").mkdir()
    shifted = {name: tensor + 1 for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(shifted, folder / "other" / WEIGHTS)
    fields("config.json", transformers_weights=f"other/{WEIGHTS}", fusion_config={"patch_embeddings": True})(folder)
    model, _ = load_classifier(str(folder), device="cpu")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("method", ["fp8", "mxfp4", "fbgemm_fp8", "eetq", "unheard_of", None, ["torchao"]])
def test_quantisations_that_fetch_kernels_are_refused_of_ours_too(folder, tmp_path, method):
    stored = {"quantization_config": {"quant_method": method}}
    fields("config.json", **stored)(folder)
    with pytest.raises(ValueError, match="others have transformers fetch kernels"):
        load_classifier(str(folder), device="cpu")
    with pytest.raises(ValueError, match="others have transformers fetch kernels"):
        ViTCustomConfig.from_dict(ViTCustomConfig().to_dict() | stored)


@pytest.mark.parametrize("method", ["torchao", "quanto", "bitsandbytes"])
def test_the_others_stay(method):
    stored = {"quantization_config": {"quant_method": method}}
    assert ViTCustomConfig.from_dict(ViTCustomConfig().to_dict() | stored).quantization_config == stored.popitem()[1]


def test_an_adapter_beside_another_librarys_model_is_refused(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else", "peft_type": "LORA"}')
    with pytest.raises(ValueError, match="names another model to load"):
        load_classifier(str(folder), device="cpu")


def test_nesting_is_refused_whatever_pythons_own_limit_is(folder):
    """Libraries raise the limit for their own purposes, and then 900 levels would pass."""
    path, before = folder / "config.json", sys.getrecursionlimit()
    path.write_text(path.read_text().replace("{", '{"deep": ' + "[" * 900 + "1" + "]" * 900 + ",", 1))
    sys.setrecursionlimit(20_000)
    try:
        with pytest.raises(ValueError, match="nested too deeply"):
            load_classifier(str(folder), device="cpu")
    finally:
        sys.setrecursionlimit(before)


def test_the_demo_shows_no_other_librarys_model(folder):
    with pytest.raises(ValueError, match="model_type='vit'"):
        refuse_other_code(folder)


# ---------- sizes


@contextmanager
def memory_limit(megabytes: int) -> Iterator[None]:
    """Limit the memory that this process can take within the block, in addition to what it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def refused(error: type[Exception], says: str) -> Iterator[None]:
    """Check that the block raises the error at once and in little memory."""
    start = time.perf_counter()
    with memory_limit(256), pytest.raises(error, match=says):
        yield
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize("attack", FOREIGN, ids=lambda attack: attack.name)
def test_sizes_that_the_files_do_not_hold_are_refused_at_once(attack, folder):
    attack.spoil(folder)
    with refused(ValueError, attack.says):
        load_classifier(str(folder), device="cpu")


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "num_labels"])
def test_convert_refuses_them_before_it_looks_at_a_tensor(folder, tmp_path, name):
    fields("config.json", **{name: 10**9})(folder)
    with refused(ConversionError, f"{name}=1000000000"):
        open_source(str(folder), {})


def test_sizes_of_other_architectures_are_refused_too(tmp_path):
    folder = save_resnet(tmp_path / "resnet")
    assert load_classifier(str(folder), device="cpu")[0].config.depths == [1, 1]
    for values in ({"depths": [10**8, 1]}, {"depths": [60, 60]}, {"hidden_sizes": [2**20, 2**20]}, {"depths": [0, 1]}):
        fields("config.json", **values)(folder)
        with refused(ValueError, "depths|hidden_sizes|larger model"):
            load_classifier(str(folder), device="cpu")


def test_many_empty_tensors_buy_no_blocks(folder):
    entries, body = split_file(folder / WEIGHTS)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    with_header(folder / WEIGHTS, {**{f"t{i}": empty for i in range(9_000)}, **entries}, body)
    fields("config.json", num_hidden_layers=400)(folder)
    with refused(ValueError, "num_hidden_layers=400.*hold 24 tensors"):
        load_classifier(str(folder), device="cpu")


@pytest.mark.slow
def test_every_classifier_of_transformers_is_as_large_as_its_files():
    """The models have their default size, and only shapes are made."""
    passed = []
    for kind in list(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING):
        classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[kind]
        cls = classes[0] if isinstance(classes, tuple) else classes
        if kind.model_type == "dinat":  # needs natten
            continue
        with torch.device("meta"):
            header = {name: ("F32", tuple(x.shape)) for name, x in cls(kind()).state_dict().items()}
        foreign.check_fields(kind.model_type, kind().to_dict(), header)
        foreign.check_size(kind.model_type, lambda cls=cls, kind=kind: cls(kind()), header)
        passed.append(kind.model_type)
    assert {"vit", "swin", "convnext", "clip", "siglip", "deit", "efficientnet"} <= set(passed)


def _timm_folder(folder: Path) -> Path:
    model = timm.create_model("test_vit", num_classes=2)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    fields("config.json", model_args={"img_size": 160}, num_classes=2)(
        folder
    )  # transformers reads the number only from this place
    return folder


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"architecture": "hf-hub:someone/else"}, "plain name"),
        ({"architecture": "eva_giant_patch14_224"}, "larger model than its weight files hold"),
        ({"model_args": {"depth": 10**9}}, "depth=1000000000"),
        ({"model_args": {"embed_dim": 2**20}}, "larger model"),
        ({"model_args": {"checkpoint_path": "../other.pth"}}, "without checkpoint_path"),
        ({"model_args": {"block_fn": "os.system", "img_size": 160}}, "makes no model"),
        ({"num_classes": 10**9}, "num_classes=1000000000"),
        ({"pretrained_cfg": {"input_size": [3, 10**6, 10**6]}}, "input_size=1000000"),
        ({"pretrained_cfg": {"crop_pct": 1e-9}}, "crop_pct=1e-09"),
    ],
)
def test_folders_of_timm_are_held_to_their_files(tmp_path, values, says):
    folder = _timm_folder(tmp_path / "timm")
    assert teacher_of(str(folder), None, {}).count == load_classifier(str(folder))[0].config.num_labels == 2
    fields("config.json", **values)(folder)
    for use, error in (
        (lambda: teacher_of(str(folder), None, {}), UsageError),
        (lambda: open_source(str(folder), {}), ConversionError),
        (lambda: load_classifier(str(folder), device="cpu"), ValueError),
    ):
        with refused(error, says):
            use()


# ---------- names and shapes of bare tensors


@pytest.mark.parametrize("number", ["1000000000", "9" * 200])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_block_numbered_without_end_is_left_over(sound, tmp_path, suffix, number):
    tensors = load_file(sound / WEIGHTS)
    tensors |= {name.replace(".0.", f".{number}."): tensor.clone() for name, tensor in tensors.items() if ".0." in name}
    path = tmp_path / f"many{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    with refused(ConversionError, f"left over in the source: .*{number}"):
        convert(str(path), tmp_path / "converted", {"num_attention_heads": 2})


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    path = tmp_path / "views.pth"
    torch.save({"head.weight": torch.zeros(1).expand(10**9, 10**4)}, path)
    with refused(ConversionError, "its tensors claim"):
        read_pth(path)
    with refused(UsageError, "its tensors claim"):
        read_state(path)
    tied = torch.randn(64, 64)
    torch.save({"one": tied, "other": tied, "part": tied[:32]}, path)
    assert read_pth(path).keys() == read_state(path).keys() == {"one", "other", "part"}


@pytest.mark.parametrize("name", ["timm:test_resnet", "torchvision:resnet18"])
def test_an_empty_head_is_no_head(tmp_path, name):
    path = tmp_path / "empty.safetensors"
    save_file({"fc.weight": torch.zeros(10**9, 0), "conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with refused(UsageError, "fc.weight is missing"):
        teacher_of(name, str(path), {})


def test_an_archive_that_unpacks_without_end_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **{"embedding/kernel": np.zeros((16, 16, 3, 30_000), np.float32)})
    with refused(ConversionError, "bytes in a file of"):
        read_npz(path)
    np.savez(path, **{"embedding/kernel": np.zeros((1, 1, 1, 1)), "Transformer/encoderblock/x": np.zeros((10**9, 0))})
    with refused(ConversionError, "at most 512 blocks"):
        read_npz(path)


def test_images_without_end_are_not_compared(tmp_path):
    opened = SOURCES["meta"](tmp_path)
    made = build(opened.source, opened.family)
    reference = opened.reference(made)
    made.model.config.image_size = 32_768
    with refused(ConversionError, "too large to be checked"):
        compare(reference, made.model, made.processor)


def test_a_processor_makes_no_images_without_end(folder):
    for values in ({"size": {"height": 10**6, "width": 10**6}}, {"image_mean": [float("nan")] * 3}):
        fields("preprocessor_config.json", **values)(folder)
        with refused(ValueError, "finite and at most 8192"):
            load_classifier(str(folder), device="cpu")
