"""The recorded settings of a training; `checkpointing.changes` lists those that may change when it goes on.

A run is made with one set of settings. Most are kept in the checkpoint's optimizer and schedule, where a new value has
no effect, or decide what the figures mean. How long it trains may change, and how a step is split up.
"""

import json
from typing import Any

from .tables import PUBLISHED
from .training_arguments import ViTTrainingArguments


def settings_of(args: ViTTrainingArguments) -> dict[str, Any]:
    """Return the recorded settings and the number of processes, as JSON reads them back."""
    settings = {name: getattr(args, name) for name in PUBLISHED} | {"processes": args.world_size}
    return json.loads(json.dumps(settings))
