"""The fastest engine gives the model's answers, and the second run finds it at once."""

import json
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from real_digits import write_class_folder
from rounding import assert_close_but_for_rounding
from saved_models import save_ours, save_transformers_vit
from tiny import TINY

from modeling_vit_custom import ViTCustomConfig
from modeling_vit_custom.attention_vit_custom import ViTCustomAttention
from modeling_vit_custom.commands.predict import main as predict
from modeling_vit_custom.engines import fastest as choosing
from modeling_vit_custom.engines import registry as engine_table
from modeling_vit_custom.engines.exported import FILES
from modeling_vit_custom.engines.fastest import CHOICE, EXACT, EngineConfig, build, cache_folder, classifier, fastest
from modeling_vit_custom.engines.output import OutputOf
from modeling_vit_custom.engines.registry import Engine, build_engine, installed_engines
from modeling_vit_custom.inference.loading import load_classifier
from modeling_vit_custom.inference.predict import example_batch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
MANY = 10**9  # so many images that a quarter of their time is enough to choose


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("VIT_CUSTOM_CACHE", str(tmp_path / "cache"))
    return load_classifier(str(save_ours(tmp_path / "model")))


@pytest.fixture
def images():
    return torch.randn(4, 1, 24, 32)


def test_parts_and_streams_are_the_whole(loaded, tmp_path):
    model, _ = loaded
    images = torch.randn(7, 1, 24, 32)
    with torch.inference_mode():
        expected = model(images).logits
        for way in (
            EngineConfig("eager", 7),
            EngineConfig("eager", 3),
            EngineConfig("eager", 3, streams=2),
            EngineConfig("eager", 20),
            EngineConfig("joined", 3),
        ):
            found = classifier(model, build(way, OutputOf(model, "logits"), images, tmp_path))
            torch.testing.assert_close(found(images).logits, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_joined_projections_are_the_three(any_config, random_model, backend):
    model = random_model(any_config).eval()
    model.set_attn_implementation(backend)
    images = torch.randn(2, any_config.num_channels, *any_config.image_hw)
    joined = OutputOf(model, "logits").fused_qkv
    for attention in joined.modules():
        if isinstance(attention, ViTCustomAttention):
            attention.k_proj = attention.v_proj = None  # must not be called
    assert_close_but_for_rounding(joined(images), model(images).logits, any_config)
    assert joined.model.classifier.weight is model.classifier.weight and model.vit.layers[0].attention.qkv_proj is None


@torch.no_grad()
def test_adapted_projections_stay_three(random_model, pixel_values):
    model = get_peft_model(random_model(ViTCustomConfig(**TINY)), LoraConfig(target_modules=["v_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.copy_(torch.randn_like(parameter))
    joined = OutputOf(model.eval(), "logits").fused_qkv
    assert torch.equal(joined(pixel_values), model(pixel_values).logits)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [name for name in installed_engines() if name != "eager"])
def test_each_engine_is_exact_and_kept(loaded, images, engine):
    model, processor = loaded
    found, said = fastest(model, processor, images, MANY, engines=[engine])
    more = torch.randn(9, 1, 24, 32)
    with torch.inference_mode():
        assert float((found(more).logits - model(more).logits).abs().max()) <= EXACT
    assert "times eager (images/s: " in said and f"{engine}, 4 images a call" in said
    again, said = fastest(model, processor, images, MANY, engines=[engine])
    assert "chosen before" in said
    with torch.inference_mode():
        torch.testing.assert_close(again(more).logits, found(more).logits, rtol=0, atol=1e-5)
    for file in cache_folder(model, processor, 4).rglob("*.*"):
        file.chmod(0o666)  # now others can write it
    assert fastest(model, processor, images, 0, engines=[engine])[0] is model


def test_a_kept_choice_whose_answers_differ_is_made_again(loaded, images, monkeypatch):
    model, processor = loaded
    fastest(model, processor, images, MANY, engines=["eager"])
    folder = cache_folder(model, processor, 4)
    assert json.loads((folder / CHOICE).read_text())["engines"] == ["eager"]
    assert "chosen before" in fastest(model, processor, images, MANY, engines=["eager"])[1]
    monkeypatch.setattr(choosing, "EXACT", -1)  # no answer agrees any more
    _, said = fastest(model, processor, images, MANY, engines=["eager"])
    assert "chosen before" not in said and said.startswith("eager, 4 images a call: 1.00 times")
    with torch.no_grad():
        model.classifier.weight.add_(1)
    assert cache_folder(model, processor, 4) != folder, "other weights must have another folder"


def test_an_engine_that_cannot_be_built_is_left_out(loaded, images, monkeypatch, caplog):
    def broken(model, images, folder):
        raise RuntimeError("no compiler")

    monkeypatch.setitem(engine_table.ENGINES, "compiled", Engine(broken))
    model, processor = loaded
    _, said = fastest(model, processor, images, MANY, engines=["eager", "compiled"])
    assert said.startswith("eager") and "left out: compiled, 4 images a call (RuntimeError: no compiler)" in caplog.text
    folder = cache_folder(model, processor, 4)
    choice = json.loads((folder / CHOICE).read_text())
    choice["way"]["engine"] = "compiled"  # as if it had been there once
    (folder / CHOICE).write_text(json.dumps(choice))
    _, said = fastest(model, processor, images, MANY, engines=["eager", "compiled"])
    assert said.startswith("eager") and "chosen again" in caplog.text


def test_a_choice_made_in_haste_is_made_again_for_many_more_images(loaded, images, monkeypatch, caplog):
    model, processor = loaded
    two = ["eager", "compiled"]
    monkeypatch.setitem(engine_table.ENGINES, "compiled", Engine(engine_table.eager))
    monkeypatch.setattr(choosing, "SHARE", -1.0)  # leaves no time for other engines
    monkeypatch.setattr(choosing, "WORTH", 0.0)
    assert fastest(model, processor, images, 100, engines=two)[1].startswith("eager, 4 images a call: 1.00")
    assert "not tried, for want of time" in caplog.text
    assert "chosen before" in fastest(model, processor, images, 200, engines=two)[1]
    assert "chosen before" not in fastest(model, processor, images, 201, engines=two)[1]
    monkeypatch.setattr(choosing, "SHARE", 1e9)
    assert "chosen before" not in fastest(model, processor, images, 1000, engines=two)[1]
    assert "chosen before" in fastest(model, processor, images, MANY, engines=two)[1], "all were tried"


def test_a_process_that_does_not_choose_opens_what_was_kept_or_nothing(loaded, images):
    model, processor = loaded
    assert fastest(model, processor, images, 0, engines=["eager"])[0] is model
    fastest(model, processor, images, MANY, engines=["eager"])
    assert "chosen before" in fastest(model, processor, images, 0, engines=["eager"])[1]


def test_a_file_that_another_process_wrote_first_is_taken(tmp_path):
    path, images = tmp_path / "engine" / "model.bin", torch.randn(2, 3)

    def save_after_another(program, own):
        own.write_bytes(b"ours")
        path.parent.mkdir()
        path.write_bytes(b"theirs")

    assert engine_table.kept(path, torch.nn.Linear(3, 1), images, save_after_another) == path
    assert path.read_bytes() == b"theirs" and list(tmp_path.iterdir()) == [path.parent]

    def save_on_a_full_disk(program, own):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        engine_table.kept(tmp_path / "other" / "model.bin", torch.nn.Linear(3, 1), images, save_on_a_full_disk)
    assert list(tmp_path.iterdir()) == [path.parent]


def test_an_engine_is_chosen_for_whole_batches_though_a_file_is_unreadable():
    one, two, other = torch.zeros(3, 4, 4), torch.ones(3, 4, 4), torch.ones(3, 8, 8)
    items = [(0, None, "cut off"), (1, one, None), (2, other, None), (3, two, None), (4, None, "cut off")]
    assert torch.equal(example_batch(items), torch.stack([one, two, one, two, one]))
    assert example_batch(items[:1]) is None


def test_where_nothing_is_chosen(loaded, images, tmp_path):
    model, processor = loaded
    assert fastest(model, processor, images, 10)[1] == (
        "eager (0 s for all images: choosing would take longer than it gains)"
    )
    assert fastest(model, processor, images, MANY, embeddings=True)[1] == "eager (the other engines give logits alone)"
    other, its_processor = load_classifier(str(save_transformers_vit(tmp_path / "theirs")))
    assert "only this package's own" in fastest(other, its_processor, images, MANY)[1]
    processor.do_resize = False
    assert "images of several sizes" in fastest(model, processor, images, MANY)[1]
    processor.do_resize = True
    assert fastest(model.bfloat16(), processor, images, MANY)[0] is model


def test_predict_says_what_it_chose(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VIT_CUSTOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choosing, "installed_engines", lambda device: ["eager"])
    monkeypatch.setattr(choosing, "WORTH", 0.0)
    folder = save_ours(tmp_path / "model")
    write_class_folder(tmp_path / "photos", {"0": 5, "1": 4})
    (tmp_path / "photos" / "0" / "0.png").write_bytes(b"no image")  # the first image is unreadable
    scores = []
    for flags in ([], ["--fast"]):
        output = tmp_path / f"{len(flags)}.jsonl"
        line = ["--model", str(folder), str(tmp_path / "photos"), "--output", str(output), "--batch_size", "4", *flags]
        assert predict(line) == 1  # an image could not be read
        rows = [json.loads(row) for row in output.read_text().splitlines()]
        scores.append([row["predictions"][0]["score"] for row in rows if "predictions" in row])
    assert scores[1] == pytest.approx(scores[0], abs=1e-5) and len(scores[0]) == 8
    assert "note: engine: eager" in capsys.readouterr().out


@pytest.mark.slow
def test_signals_arrive_after_files_were_closed_in_any_order(tmp_path, loaded, images):
    """OpenVINO moves signals to its own stack, which must outlive the files: otherwise the end of a worker crashes."""
    build_engine("openvino", OutputOf(loaded[0], "logits"), images, tmp_path / "file")
    script = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from modeling_vit_custom.engines.exported import open_openvino\n"
        "one, other = (open_openvino(Path(sys.argv[1])) for _ in range(2))\n"
        "del one\n"
        "del other\n"
        "signal.signal(signal.SIGCHLD, lambda *_: print('arrived'))\n"
        "signal.raise_signal(signal.SIGCHLD)\n"
    )
    line = [sys.executable, "-c", script, str(tmp_path / "file" / FILES["openvino"])]
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "arrived\n"), done.stderr
