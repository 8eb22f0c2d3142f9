"""Semantic segmentation: logits that cover the image, a loss that counts pixels right, and a head of any kind."""

import copy

import pytest
import torch
import torch.nn.functional as F
from rounding import assert_close_but_for_rounding
from tiny import TINY
from transformers import Trainer, TrainingArguments

from modeling_vit_custom import ViTCustomConfig, ViTCustomForSemanticSegmentation, ViTCustomModel
from modeling_vit_custom.interpolation_vit_custom import shrink_images
from modeling_vit_custom.layers_vit_custom import ChannelNorm
from modeling_vit_custom.loss_vit_custom import semantic_segmentation_loss
from modeling_vit_custom.segmentation_vit_custom import doublings

KIND = {"kind": "image-segmentation"}
SEVERAL = {"head": {**KIND, "blocks": [1, 3]}}


def segmenter(random_model, **fields) -> ViTCustomForSemanticSegmentation:
    return random_model(ViTCustomConfig(**{**TINY, **fields}), ViTCustomForSemanticSegmentation)


# ---------- logits


@pytest.mark.parametrize(
    ("fields", "scale"),
    [({}, 2), ({"head": {**KIND, "head": "linear"}}, 1), ({**SEVERAL, "num_register_tokens": 2}, 2)],
    ids=["upscale", "linear", "several blocks"],
)
@torch.no_grad()
def test_logits_come_from_the_patches_of_the_named_blocks(random_model, pixel_values, fields, scale):
    model = segmenter(random_model, **fields)
    output = model(pixel_values)
    assert output.logits.shape == (3, 5, 3 * scale, 4 * scale) and output.hidden_states is None
    hidden = model.vit(pixel_values, output_hidden_states=True).hidden_states
    prefix = model.config.num_prefix_tokens
    patches = [model.vit.layernorm(hidden[block])[:, prefix:] for block in model.blocks or [3]]
    assert torch.equal(model.decode_head(patches, (3, 4)), output.logits)
    assert len(model(pixel_values, output_hidden_states=True).hidden_states) == 4


def test_a_logit_stands_for_about_four_pixels_of_any_patch():
    for side in range(1, 65):
        rows, columns = doublings((side, 16))
        assert columns == 2 and (2.8 <= side / 2**rows <= 5.7 or (rows == 0 and side < 4))
    config = ViTCustomConfig(**{**TINY, "patch_size": (4, 16), "image_size": 32})
    assert ViTCustomForSemanticSegmentation(config)(torch.randn(1, 3, 32, 32)).logits.shape == (1, 5, 8, 8)


@torch.no_grad()
def test_images_of_any_size_are_covered_whole(random_model):
    """A crop to whole patches would shift every class, since logits are resized to the whole image."""
    model = segmenter(random_model)
    images = torch.randn(2, 3, 45, 31)
    assert model(images).logits.shape == (2, 5, 10, 6)
    torch.testing.assert_close(model(images).logits, model(shrink_images(images, (40, 24))).logits)
    beyond = images.clone()
    beyond[:, :, 41:] += 3  # rows that a crop would cut off
    assert not torch.allclose(model(beyond).logits, model(images).logits)
    with pytest.raises(ValueError, match="fewer than one patch"):
        model(images[:, :, :7])
    with pytest.raises(ValueError, match=r"pixel_values has shape .*: this model takes \[batch, 3"):
        model(images[0])


@torch.no_grad()
def test_merged_tokens_are_unmerged_for_every_block(random_model):
    model = segmenter(random_model, **SEVERAL)
    tiles = torch.randn(2, 3, 8, 8).repeat(1, 1, 3, 4)  # equal patches, so merging changes nothing without positions
    model.vit.embeddings.position_embeddings.zero_()
    expected = model(tiles).logits
    model.config.token_merging = 2
    torch.testing.assert_close(model(tiles).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "fields", [{}, {**SEVERAL, "final_norm": "pooled", "num_channels": 5}], ids=["last", "several"]
)
def test_backends_checkpointing_compiling_and_export_agree(random_model, fields):
    model = segmenter(random_model, **fields).train()
    images = torch.randn(3, model.config.num_channels, 24, 32)
    labels = torch.randint(0, 5, (3, 24, 32))
    model(images, labels=labels).loss.backward()
    expected = {name: tensor.grad.clone() for name, tensor in model.named_parameters()}
    model.zero_grad()
    checkpointed = copy.deepcopy(model)
    checkpointed.gradient_checkpointing_enable()
    checkpointed(images, labels=labels).loss.backward()
    assert all(torch.equal(tensor.grad, expected[name]) for name, tensor in checkpointed.named_parameters())
    model.eval()
    with torch.no_grad():
        logits = model(images).logits
        model.set_attn_implementation("eager")
        attentions = model(images, output_attentions=True).attentions
        assert len(attentions) == 3
        assert_close_but_for_rounding(model(images).logits, logits, model.config)
        model.set_attn_implementation("sdpa")
        torch.compiler.reset()  # torch gives up after a number of models in one process
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(images).logits, logits, rtol=1e-4, atol=1e-5)
        shapes = {"pixel_values": {0: torch.export.Dim("batch")}}
        program = torch.export.export(model, (images[:2],), dynamic_shapes=shapes)
        torch.testing.assert_close(program.module()(images)["logits"], logits, rtol=1e-4, atol=1e-5)
        half = copy.deepcopy(model).to(torch.bfloat16)(images).logits
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), logits, rtol=0.2, atol=0.2)


# ---------- the loss


def test_the_loss_is_the_mean_over_labelled_pixels():
    logits = torch.randn(2, 5, 6, 8)
    labels = torch.randint(0, 5, (2, 24, 32))
    labels[0, :5], labels[1, :, :9] = 255, -100
    resized = F.interpolate(logits, size=(24, 32), mode="bilinear", align_corners=False).log_softmax(1)
    counted = (labels != 255) & (labels != -100)
    each = -resized.gather(1, labels.where(counted, 0)[:, None])[:, 0]
    torch.testing.assert_close(semantic_segmentation_loss(labels, logits, 255), each[counted].mean())
    assert semantic_segmentation_loss(torch.full_like(labels, 255), logits, 255) == 0
    for wrong, message in [
        (labels[0], r"labels of shape \(24, 32\) .* one map of integer class ids an image, \[2, height, width\]"),
        (labels.float(), "one map of integer class ids"),
        (labels.clamp(min=0) + 1, "labels=.*5.*: labels must be class ids from 0 to 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            semantic_segmentation_loss(wrong, logits, 255)


class Pixels(torch.utils.data.Dataset):
    """Eight images of two colours, of each of which another share of the pixels has no label."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        labels = (torch.arange(24 * 32).view(24, 32) // (8 * (index + 1)) % 2).long()
        image = labels[None].float().repeat(3, 1, 1) * 2 - 1
        labels[: 3 * index] = -100
        return {"pixel_values": image, "labels": labels}


def trained(tmp_path, model, batch: int, steps: int) -> dict[str, torch.Tensor]:
    """Return the weights after one step of plain SGD by transformers' own Trainer."""
    model = copy.deepcopy(model)
    arguments = TrainingArguments(
        tmp_path,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=steps,
        max_steps=1,
        optim="sgd",
        learning_rate=1.0,
        max_grad_norm=0.0,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(model, arguments, train_dataset=Pixels())
    trainer.train()
    return model.state_dict()


@pytest.mark.slow
def test_accumulated_batches_equal_one_large_batch(tmp_path, tiny_config):
    """The micro-batches have different numbers of labelled pixels, so a mean of means would differ."""
    model = ViTCustomForSemanticSegmentation(tiny_config)
    large, small = trained(tmp_path, model, 8, 1), trained(tmp_path, model, 2, 4)
    for name in large:
        torch.testing.assert_close(small[name], large[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(large["decode_head.classifier.weight"], model.state_dict()["decode_head.classifier.weight"])


# ---------- the configuration, and other checkpoints


def test_options_are_stored_and_what_cannot_be_is_refused(tmp_path, tiny_config):
    model = ViTCustomForSemanticSegmentation(tiny_config)
    assert tiny_config.heads is None, "a configuration that other models share must stay as it was"
    assert model.config.head == {**KIND, "head": "upscale", "blocks": None, "width": None, "ignore_index": 255}
    for fields, message in [
        ({"head": {**KIND, "blocks": [4]}}, r"blocks=\[4\]: the encoder has num_hidden_layers=3"),
        ({"head": {**KIND, "ignore_index": 4}}, r"ignore_index=4: it is the id of a class \(num_labels=5\)"),
        ({"num_labels": 1}, "num_labels=1: name at least two classes"),
    ]:
        with pytest.raises(ValueError, match=message):
            ViTCustomForSemanticSegmentation(ViTCustomConfig(**{**TINY, **fields}))
    model.save_pretrained(tmp_path)
    other = ViTCustomForSemanticSegmentation.from_pretrained(tmp_path, num_labels=7, image_size=40, num_channels=1)
    assert other(torch.randn(1, 1, 40, 40)).logits.shape == (1, 7, 10, 10)
    with pytest.raises(ValueError, match="patch_size=16: the segmentation head has layers for patches of another size"):
        ViTCustomForSemanticSegmentation.from_pretrained(tmp_path, patch_size=16)
    ViTCustomModel.from_pretrained(tmp_path, patch_size=16).save_pretrained(tmp_path / "encoder")
    head = ViTCustomForSemanticSegmentation.from_pretrained(tmp_path / "encoder").decode_head
    assert head.doublings == [2, 2]
    norms = [module for module in head.modules() if isinstance(module, ChannelNorm)]
    assert len(norms) == 3 and all(torch.equal(norm.weight, torch.ones(32)) for norm in norms)
