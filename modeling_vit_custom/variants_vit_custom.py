"""Named sizes of the encoder, which `ViTCustomConfig.from_variant` reads as "b/16"."""

from typing import Any

_SMALL_IMAGE = {
    "image_size": 32,
    "stem": "conv",
    "pooling": "mean",
    "use_cls_token": False,
    "position_embedding": "sincos2d",
}
# name: width, layers, heads, MLP width, and other fields that differ from the defaults. Sizes: Steiner et al. 2021
# (AugReg), table 2; those for small images (28 to 64 px) follow the compact transformers of arXiv 2104.05704 and start
# from weights of about 1/√D: at such widths the default 0.02 learns several times slower.
VARIANTS: dict[str, tuple[int, int, int, int, dict[str, Any]]] = {
    "nano": (96, 4, 3, 192, {**_SMALL_IMAGE, "initializer_range": 0.1}),
    "micro": (128, 6, 4, 256, {**_SMALL_IMAGE, "initializer_range": 0.09}),
    "mini": (256, 7, 4, 512, {**_SMALL_IMAGE, "initializer_range": 0.06}),
    "ti": (192, 12, 3, 768, {}),
    "s": (384, 12, 6, 1536, {}),
    "b": (768, 12, 12, 3072, {}),
    "l": (1024, 24, 16, 4096, {}),
    "h": (1280, 32, 16, 5120, {}),
}
