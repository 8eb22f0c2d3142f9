"""The configuration: every field with its default, one validation, and construction from a named variant."""

import copy
import math
import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from .auto_classes_vit_custom import listed_classes, listed_pipelines
from .foreign_vit_custom import refuse_fetching_quantization, refuse_foreign_config, refuse_foreign_files
from .heads_vit_custom import Heads, named_by_kind, read_heads
from .interpolation_vit_custom import COMPUTED, POSITION_RULES
from .labels_vit_custom import read_labels, reject_field, require_label_count, validate_labels
from .speeds_vit_custom import check_speed_fields
from .unknown_vit_custom import read_unknown
from .variants_vit_custom import VARIANTS

logger = logging.get_logger(__name__)

Size = int | list[int] | tuple[int, int]

_RUNS_FROM_FOLDER = __name__.startswith("transformers_modules.")  # trust_remote_code, not the installed package


class Pooling(NamedTuple):
    """width: k, the width of the pooled vector in tokens.   first: how many first tokens it reads, None for all."""

    width: int
    first: int | None


POOLINGS = {
    "cls": Pooling(1, 1),
    "mean": Pooling(1, None),
    "cls_mean": Pooling(2, None),
    "map": Pooling(1, None),
    "cls_register": Pooling(2, 2),
}

# Inclusive bounds that every sensible model keeps; without them, a typing error would fill the memory.
_BOUNDS = {
    "hidden_size": (1, 16_384),
    "num_hidden_layers": (1, 512),
    "num_attention_heads": (1, 1_024),
    "intermediate_size": (1, 131_072),
    "num_channels": (1, 1_024),
    "num_register_tokens": (0, 1_024),
    "hidden_dropout_prob": (0.0, 0.99),
    "attention_probs_dropout_prob": (0.0, 0.99),
    "drop_path_rate": (0.0, 0.99),
    "patch_drop_rate": (0.0, 0.99),
    "initializer_range": (0.0, 10.0),
    "layer_norm_eps": (1e-20, 1.0),
}
# The same for fields that None turns off.
_OPTIONAL_BOUNDS = {
    "layer_scale_init_value": (1e-20, 100),
    "rope_theta": (1.0, 1e9),
    "pre_logits_size": (1, 131_072),
}
_PROBLEM_TYPES = (None, "single_label_classification", "multi_label_classification", "regression")
_MAX_SIDE = 32_768
_MAX_TOKENS = 1_048_576
_MAX_PARAMETERS = 30_000_000_000  # the largest published Vision Transformer has 22 billion (arXiv 2302.05442)
_DTYPES = ("float16", "bfloat16", "float32", "float64")
# Keys of a stored configuration that transformers and we write in addition to the fields below. All others are ignored,
# since some name code or files to load (`attn_implementation` a kernel, `transformers_weights` a file).
_SERVICE_KEYS = {
    "_commit_hash", "_name_or_path", "architectures", "auto_map", "chunk_size_feed_forward", "custom_pipelines",
    "dtype", "head", "id2label", "is_encoder_decoder", "label2id", "model_type", "num_labels", "out_features",
    "out_indices", "output_attentions", "output_hidden_states", "problem_type", "quantization_config", "return_dict",
    "stage_names", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip


@strict
class ViTCustomConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a Vision Transformer. Fields that transformers' `ViTConfig` has keep its names.

    Args:
        hidden_size (`int`, defaults to 768): Width D of the encoder.
        num_hidden_layers (`int`, defaults to 12): Number of blocks.
        num_attention_heads (`int`, defaults to 12): Heads of each attention; must divide `hidden_size`.
        intermediate_size (`int`, defaults to 3072): Width of the MLP's hidden layer.
        hidden_act (`str`, defaults to `"gelu"`): Activation of the MLP, a key of transformers' `ACT2FN`.
        hidden_dropout_prob (`float`, defaults to 0.0): Dropout on embeddings and at the end of each branch.
        attention_probs_dropout_prob (`float`, defaults to 0.0): Dropout on attention weights.
        drop_path_rate (`float`, defaults to 0.0): Stochastic depth of the last block; grows linearly from 0.
        patch_drop_rate (`float`, defaults to 0.0): Share of each image's patches that a training step leaves out.
        layer_scale_init_value (`float`, *optional*): Initial LayerScale factor; `None` leaves LayerScale out.
        initializer_range (`float`, defaults to 0.02): Standard deviation of initial weights.
        layer_norm_eps (`float`, defaults to 1e-6): Epsilon of every layer norm.
        image_size (`int` or `(height, width)`, defaults to 224): Input size in pixels, which the position table fits.
        patch_size (`int` or `(height, width)`, defaults to 16): Patch size in pixels.
        num_channels (`int`, defaults to 3): Channels of the input image: 1 for grey, 3 for RGB; another
            number for multispectral images, whose bands are not converted (4: red, green, blue and alpha or near
            infrared).
        qkv_bias (`bool`, defaults to `True`): Whether query, key and value projections have a bias.
        stem (`"patch"` or `"conv"`, defaults to `"patch"`): One strided convolution, or a stack of 3×3 ones
            (Xiao et al. 2021, arXiv 2106.14881) with a norm that does not depend on the batch.
        use_cls_token (`bool`, defaults to `True`): Whether a class token is prepended.
        num_register_tokens (`int`, defaults to 0): Register tokens (Darcet et al. 2023, arXiv 2309.16588).
        embedding_norm (`bool`, defaults to `False`): Whether a layer norm stands between embeddings and blocks (CLIP).
        position_embedding (`"learned"`, `"sincos2d"` or `"none"`, defaults to `"learned"`): Position table,
            added to patches only. `"sincos2d"` is fixed (MoCo v3).
        position_interpolation (`str`, defaults to `"bicubic_antialias"`): How the table is resampled for another
            grid, a key of `RESIZE_RULES`; or `"computed"`: it is computed for that grid (only with `"sincos2d"`).
        rope_theta (`float`, *optional*): Base of two-dimensional rotary positions in every attention (DINOv3: 100);
            `None` leaves them out.
        use_qk_norm (`bool`, defaults to `False`): Whether queries and keys are normalised per head (ViT-22B, arXiv
            2302.05442).
        use_gated_mlp (`bool`, defaults to `False`): Whether MLPs are gated; SwiGLU with `hidden_act="silu"`.
        pooling (`"cls"`, `"mean"`, `"cls_mean"`, `"cls_register"` or `"map"`, defaults to `"cls"`): How tokens
            become one vector: class token, mean over patches, both concatenated (DINOv2's head), class and first
            register token concatenated (in DeiT the distillation token), or attention with a learned query.
        final_norm (`"tokens"`, `"pooled"` or `"none"`, defaults to `"tokens"`): Whether the last layer norm acts on the
            tokens before pooling or on the pooled vector (timm's `fc_norm`).
        pre_logits_size (`int`, *optional*): Width of a linear layer with tanh before the classifier; `None` leaves it
            out.
        token_merging (`int`, list of `int` or `str`, *optional*): How many patches each block merges into others (ToMe,
            arXiv 2210.09461): one number, one for each block, or a target such as `"2x"`, which merges enough to halve
            the arithmetic of the blocks. `None` merges none. May be changed at any time.
        shrink_to (`int` or `(height, width)`, *optional*): Size to which a classifier first shrinks larger images, to
            have fewer patches. May be changed at any time.
        speeds (`dict`, *optional*): Settings of `token_merging` and `shrink_to` by name, measured by
            `vit-custom speed_table`; `from_pretrained(…, speed="2x")` applies them.
        unknown (`dict`, *optional*): How a classifier tells images of no known class, see `unknown_vit_custom`;
            calibrated by `vit-custom train --reject` or `--max_error`. `None`: it answers every image.
        heads (`dict`, *optional*): Options of heads other than a classifier's: a name for each head → its kind and
            options, see `heads_vit_custom`. With one head, `head={"kind": …}` is the same.
        apply_layernorm (`bool`, defaults to `True`): Whether a backbone normalises its feature maps.
        reshape_hidden_states (`bool`, defaults to `True`): Whether a backbone returns maps [B, D, h, w].

    Raises an error from any constructor if the model is impossible, before anything is allocated. The error names the
    field, its value and the fix.

    ```python
    >>> from modeling_vit_custom import ViTCustomConfig
    >>> config = ViTCustomConfig.from_variant("s/16", image_size=(224, 320), num_labels=10)
    >>> config.grid_hw
    (14, 20)
    ```"""

    keys_to_ignore_at_inference = ["pooler_output", "typicality", "unknown"]  # Trainer gathers the other outputs
    model_type = "vit_custom"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    patch_drop_rate: float | int = 0.0
    layer_scale_init_value: float | int | None = None
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-6
    image_size: Size = 224
    patch_size: Size = 16
    num_channels: int = 3
    qkv_bias: bool = True
    stem: Literal["patch", "conv"] = "patch"
    use_cls_token: bool = True
    num_register_tokens: int = 0
    embedding_norm: bool = False
    position_embedding: Literal["learned", "sincos2d", "none"] = "learned"
    position_interpolation: str = "bicubic_antialias"
    rope_theta: float | int | None = None
    use_qk_norm: bool = False
    use_gated_mlp: bool = False
    pooling: Literal["cls", "mean", "cls_mean", "cls_register", "map"] = "cls"
    final_norm: Literal["tokens", "pooled", "none"] = "tokens"
    pre_logits_size: int | None = None
    token_merging: int | list[int] | str | None = None
    shrink_to: Size | None = None
    speeds: dict[str, dict[str, Any]] | None = None
    unknown: dict[str, Any] | None = None
    heads: Heads | None = None
    apply_layernorm: bool = True
    reshape_hidden_states: bool = True
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    @classmethod
    def from_variant(cls, name: str, **overrides: Any) -> "ViTCustomConfig":
        """Return the configuration of a named variant such as "s/16" (size/patch); `overrides` win.

        Raises ValueError for an unknown name, listing the sizes.
        """
        size, _, patch = name.lower().partition("/")
        if size not in VARIANTS or not patch.isdecimal():
            raise ValueError(f"variant={name!r} is unknown: write size/patch, size one of {', '.join(VARIANTS)}.")
        width, layers, heads, mlp_width, extra = VARIANTS[size]
        fields = {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": mlp_width,
            "patch_size": int(patch),
            **extra,
        }
        return cls(**{**fields, **overrides})

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any):
        """Read the stored fields as transformers does.

        Raises ValueError for the checkpoint of another library, with the command that converts it.
        """
        refuse_foreign_files(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        fields, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        refuse_foreign_config(pretrained_model_name_or_path, fields, cls.model_type)
        return fields, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """Build a configuration as transformers does, with overrides validated like stored values.

        Another `num_labels` than stored means a new head: the stored label names are dropped. Stored keys that are no
        field are ignored with a warning; a keyword of the same name still counts.
        """
        own = cls.__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys()
        known = {name for name in own if not name.startswith("_")} | _SERVICE_KEYS
        stored = {name: value for name, value in config_dict.items() if name in known}
        refuse_fetching_quantization(stored)
        if foreign := sorted(set(config_dict) - known):
            logger.warning(
                f"The stored configuration has keys that are no field of ViTCustomConfig, left out: {foreign[:20]}. "
                "Perhaps a newer version wrote it."
            )
        if "id2label" in kwargs or "label2id" in kwargs:
            _drop(stored, "id2label", "label2id", "num_labels", "unknown")
        elif kwargs.get("num_labels") not in (None, len(stored.get("id2label") or {})):
            _drop(stored, "id2label", "label2id", "unknown")
        if "head" in kwargs or "heads" in kwargs:
            _drop(stored, "head", "heads")
        for name in [name for name in kwargs if name in {*cls.__dataclass_fields__, "head"} - {"dtype"}]:
            stored[name] = kwargs.pop(name)
        return super().from_dict(stored, **kwargs)

    def __post_init__(self, **kwargs: Any):
        for name in ("image_size", "patch_size", "shrink_to"):
            if isinstance(getattr(self, name), list):
                setattr(self, name, tuple(getattr(self, name)))
        if "num_labels" in kwargs:
            require_label_count(kwargs["num_labels"])
        for dtype in (self.dtype, kwargs.get("torch_dtype")):
            if isinstance(dtype, str) and dtype not in _DTYPES:
                reject_field("dtype", dtype, f"must be one of {', '.join(_DTYPES)}")
        self.id2label, self.label2id = read_labels(self.id2label, self.label2id, kwargs.get("num_labels"))
        if (head := kwargs.pop("head", None)) is not None and self.heads:
            reject_field("head", head, f"heads={self.heads} is given too: put all of them into heads")
        self.heads = read_heads(self.heads or named_by_kind(head))
        self.unknown = read_unknown(self.unknown)
        self._validate_bounds()
        self.stage_names = ["stem"] + [f"stage{i}" for i in range(1, self.num_hidden_layers + 1)]
        if kwargs.pop("stage_names", self.stage_names) != self.stage_names:
            _drop(kwargs, "out_features", "out_indices")  # they name stages of a model of another depth
        self._custom_pipelines = kwargs.pop("custom_pipelines", {})
        out_features, out_indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)
        super().__post_init__(**kwargs)

    @property
    def image_hw(self) -> tuple[int, int]:
        """Input height and width in pixels."""
        return _pair(self.image_size)

    @property
    def patch_hw(self) -> tuple[int, int]:
        """Patch height and width in pixels."""
        return _pair(self.patch_size)

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of patches at `image_size`; pixels beyond the last whole patch are cut off."""
        return self.grid_of(self.image_hw)

    @property
    def shrink_hw(self) -> tuple[int, int] | None:
        """`shrink_to` as (height, width)."""
        return None if self.shrink_to is None else _pair(self.shrink_to)

    def grid_of(self, image_hw: Sequence[int]) -> tuple[int, int]:
        """Return the rows and columns of patches of an image of (height, width) pixels."""
        return image_hw[0] // self.patch_hw[0], image_hw[1] // self.patch_hw[1]

    @property
    def head_dim(self) -> int:
        """Width d = D / H of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def mlp_products(self) -> int:
        """The hidden width of an MLP times the number of matrices that have it."""
        return self.intermediate_size * (3 if self.use_gated_mlp else 2)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: class token, then registers."""
        return int(self.use_cls_token) + self.num_register_tokens

    @property
    def pooled_size(self) -> int:
        """Width k·D of the pooled vector."""
        return self.hidden_size * POOLINGS[self.pooling].width

    @property
    def has_distillation_token(self) -> bool:
        """Whether the logits are the mean of two heads, on the class token and on a register token, as in DeiT."""
        return self.pooling == "cls_register" and not self.pre_logits_size

    @property
    def head(self) -> dict[str, Any] | None:
        """The one entry of `heads`, None without an entry.

        Raises ValueError if there are several.
        """
        if self.heads and len(self.heads) > 1:
            reject_field("heads", list(self.heads), "has several heads: read heads instead of head")
        return next(iter((self.heads or {}).values()), None)

    def drop_path_rates(self) -> list[float]:
        """Return the stochastic depth rate of each block, growing linearly from 0 to `drop_path_rate`."""
        last = max(self.num_hidden_layers - 1, 1)
        return [self.drop_path_rate * i / last for i in range(self.num_hidden_layers)]

    @property
    def custom_pipelines(self) -> dict[str, Any]:
        """The pipelines that config.json names, copied each time because `pipeline` writes into what it reads.

        Empty in the installed package: its import registers the pipeline, and for an entry here `pipeline` would
        demand trust_remote_code.
        """
        return copy.deepcopy(self._custom_pipelines) if _RUNS_FROM_FOLDER else {}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields to save, as transformers does."""
        output = super().to_dict()
        if pipelines := output.pop("_custom_pipelines", None):
            output["custom_pipelines"] = pipelines
        for name in ("heads", "unknown"):
            if not output.get(name):
                output.pop(name, None)
        return output

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any):
        """Save to a folder, with the `auto_map` and `custom_pipelines` of `auto_classes_vit_custom`."""
        self.auto_map = listed_classes(save_directory, self.architectures, getattr(self, "auto_map", None))
        self._custom_pipelines = listed_pipelines(save_directory, self.auto_map)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def validate_architecture(self):
        """Raise ValueError for impossible values, naming field, value and fix; the only validation."""
        self._validate_bounds()
        self._validate_grid()
        self._validate_parameters()
        self._validate_fields_together()
        read_heads(self.heads)
        read_unknown(self.unknown)
        names: Any = self.id2label or {}
        validate_labels(names, self.label2id)

    def _validate_bounds(self):
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                reject_field(name, value, f"must be from {low} to {high}")
        for name, (low, high) in _OPTIONAL_BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                reject_field(name, value, f"must be from {low} to {high}, or None to leave it out")
        for name in ("image_size", "patch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) and len(value) != 2:
                reject_field(name, value, "must be an int or (height, width)")
            if not all(1 <= side <= _MAX_SIDE for side in _pair(value)):
                reject_field(name, value, f"each side must be from 1 to {_MAX_SIDE} pixels")

    def _validate_grid(self):
        image, patch = self.image_hw, self.patch_hw
        if image[0] < patch[0] or image[1] < patch[1]:
            reject_field("image_size", self.image_size, f"must hold one patch of patch_size={self.patch_size}")
        if math.prod(self.grid_hw) > _MAX_TOKENS:
            reject_field("patch_size", self.patch_size, f"gives {math.prod(self.grid_hw)} patches: use a larger one")
        if image[0] % patch[0] or image[1] % patch[1]:
            used = tuple(cells * side for cells, side in zip(self.grid_hw, patch, strict=True))
            logger.warning_once(
                f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}: only the first "
                f"{used[0]}x{used[1]} pixels are seen. Use image_size={used} to keep the rest from being cut off."
            )
        if self.stem == "conv" and (max(patch) == 1 or any(side & (side - 1) for side in patch)):
            reject_field("patch_size", self.patch_size, "stem='conv' halves the image: use powers of two, at least 2")

    def _validate_parameters(self):
        width, pixels, labels = self.hidden_size, math.prod(self.patch_hw) * self.num_channels, len(self.id2label or {})
        blocks = self.num_hidden_layers * (4 * width**2 + 2 * width * self.intermediate_size)
        about = blocks + width * (pixels + math.prod(self.grid_hw) + labels)
        if about > _MAX_PARAMETERS:
            reject_field(
                "hidden_size", width,
                f"with num_hidden_layers={self.num_hidden_layers}, intermediate_size={self.intermediate_size}, "
                f"image_size={self.image_size}, patch_size={self.patch_size} and {labels} labels makes about "
                f"{about / 1e9:,.0f} billion parameters: at most {_MAX_PARAMETERS // 10**9} billion",
            )  # fmt: skip

    def _validate_fields_together(self):
        if self.hidden_size % self.num_attention_heads:
            reject_field("num_attention_heads", self.num_attention_heads, f"must divide hidden_size={self.hidden_size}")
        if self.hidden_act not in ACT2FN:
            reject_field("hidden_act", self.hidden_act, f"must be one of {', '.join(sorted(ACT2FN))}")
        rule, fixed = self.position_interpolation, self.position_embedding == "sincos2d"
        if rule not in POSITION_RULES:
            reject_field("position_interpolation", rule, f"must be one of {list(POSITION_RULES)}")
        if rule == COMPUTED and not fixed:
            fix = "a rule of resampling, such as 'bicubic_antialias'"
            reject_field("position_interpolation", rule, f"needs position_embedding='sincos2d'; use it, or {fix}")
        if fixed and (self.hidden_size % 4 or self.hidden_size < 8):
            reject_field(
                "hidden_size", self.hidden_size, "position_embedding='sincos2d' needs a multiple of 4, at least 8"
            )
        if self.pooling.startswith("cls") and not self.use_cls_token:
            reject_field("pooling", self.pooling, "needs use_cls_token=True; without a class token use 'mean' or 'map'")
        if self.pooling == "cls_register" and not self.num_register_tokens:
            reject_field("pooling", self.pooling, "needs num_register_tokens of at least 1")
        if self.rope_theta is not None and self.head_dim % 4:
            reject_field("rope_theta", self.rope_theta, f"needs heads of a multiple of 4, not {self.head_dim}")
        check_speed_fields(self.token_merging, self.shrink_to, self.speeds, self)
        if self.problem_type not in _PROBLEM_TYPES:
            reject_field("problem_type", self.problem_type, f"must be one of {_PROBLEM_TYPES}")


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _drop(mapping: dict[str, Any], *names: str):
    for name in names:
        mapping.pop(name, None)


ViTCustomConfig.register_for_auto_class()
