"""transformers' own test_image_processing_common.py against both image processors."""

import unittest

import pytest
from transformers import AutoImageProcessor
from transformers_suite import explain_skips, load_suite

from modeling_vit_custom.configuration_vit_custom import ViTCustomConfig
from modeling_vit_custom.image_processing_vit_custom import ViTCustomImageProcessor, ViTCustomImageProcessorPil

common = load_suite("test_image_processing_common")

SKIPS = {
    "test_call_numpy_4_channels": "four channels are RGBA here and composited on the background, never passed on",
    "test_can_compile_torchvision_backend": "needs a GPU; decoding runs in numpy, outside any graph",
    "test_image_processor_preprocess_arguments": "asks for two validations transformers 5 no longer has",
    "test_override_instance_attributes_does_not_affect_other_instances": (
        "written for dict sizes and list means; both are immutable or copied here (test_image_processing.py)"
    ),
    "test_pil_can_run_without_torchvision": (
        "a fresh process without trust_remote_code, which custom code needs; test_image_processing.py does it"
    ),
}

pytestmark = pytest.mark.slow


def setUpModule():
    """Register the classes, because the suite loads by AutoImageProcessor without trusting remote code."""
    classes = {"torchvision": ViTCustomImageProcessor, "pil": ViTCustomImageProcessorPil}
    AutoImageProcessor.register(ViTCustomConfig, image_processor_classes=classes, exist_ok=True)


class ViTCustomImageProcessingTester(common.ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        kwargs.setdefault("size", {"height": 18, "width": 18})
        kwargs.setdefault("image_mean", [0.5, 0.4, 0.3])
        kwargs.setdefault("image_std", [0.5, 0.6, 0.7])
        kwargs.setdefault("do_resize", True)
        kwargs.setdefault("do_normalize", True)
        super().__init__(parent, **kwargs)

    def _get_image_processing_classes(self):
        return {"torchvision": ViTCustomImageProcessor, "pil": ViTCustomImageProcessorPil}


@explain_skips(SKIPS)
class ViTCustomImageProcessingTest(common.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = ViTCustomImageProcessingTester
    test_cast_dtype = True
    backend_equivalence_atol = 1 / 255 / 0.5 + 1e-4  # one grey level after division by the smallest std
