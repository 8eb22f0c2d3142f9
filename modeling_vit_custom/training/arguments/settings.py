"""Which settings of a training are recorded, and which of them may change when it goes on.

A run is made with one set of settings. Most are kept in the checkpoint's optimizer and schedule, where a new value has
no effect, or decide what the figures mean. How long it trains may change, and how a step is split up.
"""

import json
from typing import Any

from .flags import ViTTrainingArguments

# What of TrainingArguments describes a run and may be published; paths, names and tokens are not among it.
PUBLISHED = (
    "learning_rate", "num_train_epochs", "max_steps", "weight_decay", "lr_scheduler_type", "lr_scheduler_kwargs",
    "warmup_steps", "optim", "optim_args", "muon", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
    "per_device_train_batch_size", "gradient_accumulation_steps", "label_smoothing_factor", "seed", "data_seed", "bf16",
    "fp16", "eval_strategy", "eval_steps", "metric_for_best_model", "load_best_model_at_end", "loss", "class_weights",
    "ema_decay", "layer_decay", "early_stopping_patience", "early_stopping_threshold", "max_minutes", "distillation",
    "distillation_alpha", "distillation_temperature",
)  # fmt: skip


def settings_of(args: ViTTrainingArguments) -> dict[str, Any]:
    """The recorded settings as JSON has them, and how many processes there are."""
    settings = {name: getattr(args, name) for name in PUBLISHED} | {"processes": args.world_size}
    return json.loads(json.dumps(settings))
