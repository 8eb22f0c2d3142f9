"""The image classification pipeline, in which the image processor decodes the file itself.

transformers' own pipeline decodes a path to 8-bit RGB before the processor sees it, so that transparency, 16 bits and
floats are lost. It also assumes that there is an image, that it is readable, and that the scores are numbers. However
`pipeline("image-classification", …)` is called, it builds this class, in one of three ways:
    a saved folder or Hub id, with trust_remote_code   `custom_pipelines` in its config.json names the class
    the same after `import modeling_vit_custom`        the entry of transformers' table of tasks, changed below
    a model object                                     the same entry
"""

from dataclasses import replace
from functools import partial
from types import GeneratorType
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import ImageClassificationPipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import logging

from .image_decoding_vit_custom import check_on_error, decode_image, source_name
from .image_limits_vit_custom import DEFAULT_LIMITS, ImageDecodingError

logger = logging.get_logger(__name__)

TASK = "image-classification"


class ViTCustomImageClassificationPipeline(ImageClassificationPipeline):
    """Classifies images from any source that `decode_image` reads.

    As transformers' pipeline, with these additions:
        inputs: also bytes, arrays, tensors, `datasets` records; a [B, ...] array is B images.
        on_error: "raise" stops at the first unreadable image, by its path or position. "report" puts
            {"error": why} in its place among the results. "skip" leaves it out, and a warning names it.
        allow_urls: download http and https addresses, within `timeout` seconds.
        channel_order, input_data_format: how to read arrays; see `decode_image`.
    Of a model with `config.unknown` each answer also has "unknown": whether the image shows none of the known classes.
    An output of the model that is NaN or infinite counts as an error of that image too.
    """

    def check_model_type(self, supported_models: Any) -> None:
        """Accept any model: transformers' list holds only its own models and calls any other unsupported."""

    def _sanitize_parameters(self, on_error=None, timeout=None, top_k=None, function_to_apply=None, **decoding):
        unknown = sorted(set(decoding) - {"allow_urls", "channel_order", "input_data_format"})
        if unknown:
            raise TypeError(f"the {TASK} pipeline has no argument {unknown[0]!r}.")
        shared = {}
        if on_error is not None:
            check_on_error(on_error)
            shared = {"on_error": on_error}
        _, forward, postprocess = super()._sanitize_parameters(top_k, function_to_apply)
        preprocess = shared | decoding | ({} if timeout is None else {"timeout": timeout})
        return preprocess, forward, shared | postprocess

    def __call__(self, inputs: Any = None, **kwargs: Any) -> Any:
        """Classify images. Returns, as transformers does, a list for one image, a list of lists for several, and an
        iterator for a data set or a generator.

        Raises ImageDecodingError for an unreadable image (see `on_error`), ValueError for no image at all.
        """
        inputs = kwargs.pop("images", inputs)
        if isinstance(inputs, tuple) or getattr(inputs, "ndim", None) == 4:  # a numpy or torch batch
            inputs = list(inputs)
        if inputs is None or (isinstance(inputs, list) and not inputs):
            raise ValueError("inputs: there is no image. Give at least one.")
        numbered = _numbered(inputs)
        results = super().__call__(numbered, **kwargs)
        on_error = kwargs.get("on_error", self._postprocess_params.get("on_error"))
        if on_error != "skip" or numbered is inputs:
            return results
        kept = (result for result in results if result is not None)
        return list(kept) if isinstance(results, list) else kept

    def preprocess(
        self, image: Any, on_error: str = "raise", timeout: float | None = None, **decoding: Any
    ) -> dict[str, Any]:
        """Return {"pixel_values": [1, C, h, w], "name": …, "error": None}, or a black image and the error."""
        index, source = (image.index, image.source) if isinstance(image, _Numbered) else (None, image)
        name = source_name(source)
        if index is not None:
            name = f"image {index}" + (f" ({name})" if name else "")
        processor: Any = self.image_processor
        config: Any = self.model.config
        plain = partial(decode_image, num_channels=config.num_channels)
        decode = getattr(processor, "decode", plain)  # another class's processor gets 8-bit tensors
        if timeout is not None:
            decoding["limits"] = replace(getattr(processor, "limits", DEFAULT_LIMITS), download_seconds=timeout)
        error = None
        try:
            decoded = decode(source, name=name, **decoding)
        except ImageDecodingError as failure:
            if on_error == "raise":
                raise
            error = str(failure)
            decoded = torch.zeros(config.num_channels, *config.image_hw)  # a batch needs something in its place
        layout = {"input_data_format": "channels_first"}  # no guess: an image may be as narrow as it has channels
        inputs = processor(images=decoded, return_tensors="pt", **layout).to(self.dtype)
        return {**inputs, "name": name, "error": error}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        said = {key: model_inputs.pop(key) for key in ("name", "error")}
        output = self.model(**model_inputs)
        return {"logits": output.logits, "unknown": output.get("unknown"), **said}

    def postprocess(self, model_outputs: dict[str, Any], on_error: str = "raise", **kwargs: Any) -> Any:
        """Return the labels and scores of one image; on an error {"error": why}, or None to leave it out ("skip")."""
        error = model_outputs["error"]
        if error is None and not model_outputs["logits"].isfinite().all():
            name = model_outputs["name"]
            error = f"{name + ': ' if name else ''}the model's output is NaN or infinite: its weights are damaged."
            if on_error == "raise":
                raise ValueError(error)
        if error is None:
            answers = super().postprocess(model_outputs, **kwargs)
            if (unknown := model_outputs.get("unknown")) is None:
                return answers
            return [{**answer, "unknown": bool(unknown)} for answer in answers]
        if on_error == "skip":
            logger.warning(f"LEFT OUT: {error}")
            return None
        return {"error": error}


class _Numbered:
    """One of several images, with its position for messages."""

    def __init__(self, index: int, source: Any):
        self.index, self.source = index, source


class _NumberedDataset(Dataset):
    def __init__(self, images: Any):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> _Numbered:
        return _Numbered(index, self.images[index])


def _numbered(inputs: Any) -> Any:
    """Several images, in the kind of collection given, each with its position; one image as it is."""
    if isinstance(inputs, list):
        return [_Numbered(index, source) for index, source in enumerate(inputs)]
    if isinstance(inputs, GeneratorType | IterableDataset):
        return (_Numbered(index, source) for index, source in enumerate(inputs))
    return _NumberedDataset(inputs) if isinstance(inputs, Dataset) else inputs


class PipelineRouter(ImageClassificationPipeline):
    """Builds the pipeline that the model names, else transformers' own, for `pipeline("image-classification")`."""

    def __new__(cls, model: Any, **kwargs: Any):
        return getattr(model, "image_classification_pipeline", ImageClassificationPipeline)(model, **kwargs)


PIPELINE_REGISTRY.supported_tasks[TASK]["impl"] = PipelineRouter
