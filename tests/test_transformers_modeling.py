"""transformers' own shared tests of models, configurations and backbones, run on our classes."""

import unittest

import pytest
import torch
from tiny import TINY
from transformers.utils import is_flash_attn_2_available
from transformers_suite import explain_skips, load_suite

from modeling_vit_custom import (
    ViTCustomBackbone,
    ViTCustomConfig,
    ViTCustomForImageClassification,
    ViTCustomForMaskedImageModeling,
    ViTCustomForSemanticSegmentation,
    ViTCustomModel,
)

modeling = load_suite("test_modeling_common")
# By these tables, the shared tests decide which labels a class takes.
modeling.MODEL_MAPPING_NAMES = {**modeling.MODEL_MAPPING_NAMES, "vit_custom": "ViTCustomModel"}
modeling.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES = {
    **modeling.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "vit_custom": "ViTCustomForImageClassification",
}
modeling.MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES = {
    **modeling.MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES,
    "vit_custom": "ViTCustomForMaskedImageModeling",
}
modeling.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES = {
    **modeling.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
    "vit_custom": "ViTCustomForSemanticSegmentation",
}
torch_device = modeling.torch_device
configuration = load_suite("test_configuration_common")
backbone = load_suite("test_backbone_common")

pytestmark = pytest.mark.slow


class ModelTester:
    """The small configuration and inputs that the shared tests ask for, with their sizes."""

    fields = {**TINY, "image_size": 24, "num_hidden_layers": 2}
    batch_size = 2
    image_size = fields["image_size"]
    patch_size = fields["patch_size"]
    num_hidden_layers = fields["num_hidden_layers"]
    num_attention_heads = fields["num_attention_heads"]
    hidden_size = fields["hidden_size"]
    seq_length = 3 * 3 + 1
    num_masks = 3 * 3 // 2
    mask_length = 3 * 3
    is_training = True

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> ViTCustomConfig:
        return ViTCustomConfig(**self.fields)

    def prepare_config_and_inputs(self):
        return self.get_config(), torch.randn(self.batch_size, 3, 24, 24, device=torch_device)

    def prepare_config_and_inputs_for_common(self):
        config, pixel_values = self.prepare_config_and_inputs()
        return config, {"pixel_values": pixel_values}


NO_TEXT = "images, not token ids: there is no vocabulary embedding to resize or replace"
NO_ACCELERATOR = "needs a GPU"
NO_PARTS = "one encoder: there is no sub-configuration to compose"
SKIPS = {
    "test_attn_implementation_composite_models": NO_PARTS,
    "test_can_set_attention_dynamically_composite_model": NO_PARTS,
    "test_internal_model_config_and_subconfig_are_same": NO_PARTS,
    "test_sdpa_can_dispatch_composite_models": NO_PARTS,
    "test_flash_attn_?_can_dispatch_composite_models": NO_PARTS,
    "test_inputs_embeds*": NO_TEXT,
    "test_resize_embeddings_untied*": NO_TEXT,
    "test_resize_tokens_embeddings*": NO_TEXT,
    "test_resize_position_vector_embeddings": "for text positions; tests/test_resizing.py covers ours",
    "test_causal_lm_loss_honors_shift_labels": "no language modeling head",
    "test_encoder_decoder_loss_no_double_shift": "no language modeling head",
    "test_sliding_window_mask": "every token attends to every other",
    "test_model_rope_*": "positions are a table, not rotary",
    "test_vision_axial_rope": "positions are a table, not rotary",
    "test_moe_models_record_router_logits": "no mixture of experts",
    "test_output_router_logits_from_config": "no mixture of experts",
    "test_eager_matches_batched_and_grouped_inference_*": "no mixture of experts",
    "test_tp_plan_matches_params": "no tensor-parallel plan",
    "test_can_init_all_missing_weights": "runs for a list of models that transformers itself names",
    "test_can_load_ignoring_mismatched_shapes": "another num_labels needs no flag here: tests/test_resizing.py",
    "test_model_weights_reload_no_missing_tied_weights": "loads a file without weights, refused here: test_attacks.py",
    "test_enable_input_require_grads_with_gradient_checkpointing": "looks for the weight of a token embedding",
    "test_kernels_can_load_without_crashing": "needs the kernels library, which downloads from the Hub",
    "test_flash_attn_kernels_*": "needs the kernels library, which downloads from the Hub",
    "test_disk_offload_bin": "only safetensors are read",
    "test_torch_compile_for_training": "of models that name a class for it; tests/test_gpu.py compiles a step",
}
if not is_flash_attn_2_available():
    SKIPS |= {"test_flash_attn_?_*": "needs the package flash-attn; tests/test_gpu.py runs torch's own flash kernel"}
if torch.cuda.device_count() < 2:
    SKIPS |= {"test_model_parallelism": "needs two GPUs"}
if not torch.cuda.is_available():
    SKIPS |= dict.fromkeys(
        (
            "test_can_load_with_device_context_manager",
            "test_can_load_with_global_device_set",
            "test_cpu_offload",
            "test_disk_offload_safetensors",
            "test_flex_attention_with_grads",
            "test_sdpa_can_compile_dynamic",
            "test_sdpa_can_dispatch_on_flash",
        ),
        NO_ACCELERATOR,
    )


@explain_skips(SKIPS)
class ViTCustomModelTest(modeling.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (
        ViTCustomModel,
        ViTCustomForImageClassification,
        ViTCustomForMaskedImageModeling,
        ViTCustomForSemanticSegmentation,
    )
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = ModelTester(self)
        self.config_tester = configuration.ConfigTester(
            self,
            config_class=ViTCustomConfig,
            has_text_modality=False,
            hidden_size=32,
            num_attention_heads=4,
            image_size=32,
        )

    @staticmethod
    def _prepare_config_headdim(config, requested_dim):
        """Return what the shared one returns, for a configuration whose head_dim follows from its width."""
        width = max(requested_dim, config.head_dim) * config.num_attention_heads
        return ViTCustomConfig(**config.to_dict() | {"hidden_size": width})

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        """The shared test's claim, for a model whose input layer is a convolution."""
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            assert isinstance(model.get_input_embeddings(), torch.nn.Module)
            assert model.get_output_embeddings() is None


@explain_skips({})
class ViTCustomBackboneTest(backbone.BackboneTesterMixin, unittest.TestCase):
    all_model_classes = (ViTCustomBackbone,)
    config_class = ViTCustomConfig
    has_attentions = True

    def setUp(self):
        self.model_tester = ModelTester(self)
