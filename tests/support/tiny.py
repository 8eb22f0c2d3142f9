"""The tiny model of the tests, and one row of fields for every branch of the architecture."""

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": (24, 32),
    "patch_size": 8,
    "num_labels": 5,
}

ARCHITECTURES = {
    "cls": {},
    "mean": {"pooling": "mean", "use_cls_token": False},
    "mean after cls": {"pooling": "mean", "num_register_tokens": 2},
    "cls_mean": {"pooling": "cls_mean", "final_norm": "pooled"},
    "cls_register": {"pooling": "cls_register", "num_register_tokens": 2},
    "map": {"pooling": "map", "qkv_bias": False},
    "pooled norm": {"pooling": "mean", "final_norm": "pooled"},
    "conv stem, computed": {
        "stem": "conv", "pooling": "mean", "use_cls_token": False,
        "position_embedding": "sincos2d", "position_interpolation": "computed",
    },
    "sincos": {"position_embedding": "sincos2d", "layer_scale_init_value": 0.1},
    "no positions": {"position_embedding": "none"},
    "oblong patch": {"patch_size": (4, 8)},
    "rope": {"position_embedding": "none", "rope_theta": 100.0, "num_register_tokens": 1},
    "qk norm": {"use_qk_norm": True, "hidden_act": "quick_gelu"},
    "gated mlp": {"use_gated_mlp": True, "hidden_act": "silu", "pooling": "map"},
    "embedding norm": {"embedding_norm": True, "pre_logits_size": 24},
}  # fmt: skip

# Five models that together take every branch of the above, for what takes seconds a model.
COMBINED = {
    "cls": {},
    "conv stem": {**ARCHITECTURES["conv stem, computed"], **ARCHITECTURES["qk norm"]},
    "rope": {**ARCHITECTURES["cls_register"], **ARCHITECTURES["rope"], "num_register_tokens": 2},
    "map": {**ARCHITECTURES["map"], **ARCHITECTURES["gated mlp"], **ARCHITECTURES["embedding norm"]},
    "cls_mean": {**ARCHITECTURES["cls_mean"], **ARCHITECTURES["sincos"], **ARCHITECTURES["oblong patch"]},
}
