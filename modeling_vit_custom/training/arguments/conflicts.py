"""Checks for flags that do not go together: a table of (wrong, message), and parts built on trial."""

import copy
from typing import Any

import torch
from accelerate.utils import TorchDynamoPlugin
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, get_scheduler
from transformers.debug_utils import DebugOption
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames

from ...common.errors import UsageError
from .data_arguments import DataArguments
from .declarations import IN_STEPS
from .model_arguments import METHODS, ModelArguments
from .tables import given, idle_for
from .training_arguments import ViTTrainingArguments, too_long

# Fields of accelerate's configuration that decide which images a process gets, and how often.
SPLITTING = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler", "use_configured_state")
LOW_RANK = ("galore", "apollo")  # optimizers that take --optim_target_modules


def conflicts(m: ModelArguments, d: DataArguments, t: ViTTrainingArguments) -> list[tuple[Any, str]]:
    """Return rows (whether flags exclude each other, the message if they do)."""
    sources = {"--dataset": d.dataset, "--train_dir": d.train_dir, "--dataset_name": d.dataset_name}
    named = [flag for flag, value in sources.items() if value is not None]
    from_one = f"name the training data by one of {', '.join(sources)}"
    optim, validates = OptimizerNames(t.optim).value, t.eval_strategy != IntervalStrategy.NO
    validate = "give --eval_strategy epoch or steps"
    accelerator: Any = t.accelerator_config
    whole = AcceleratorConfig()
    split = [name for name in SPLITTING if getattr(accelerator, name) != getattr(whole, name)]
    accumulation = accelerator.gradient_accumulation_kwargs or {}
    of_heads = given(("head", "feature_views", "folds"), m, d)
    idle = given(idle_for(str(m.method)), m, d, t)
    return [
        (
            (m.model_name_or_path is None) == (m.variant is None),
            "give either --model_name_or_path (a checkpoint) or --variant (random weights).",
        ),
        (len(named) != 1, f"{from_one}, not {' and '.join(named) or 'none'}."),
        (m.method not in METHODS, f"--method {m.method}: give one of {', '.join(METHODS)}."),
        (
            m.method != "full" and m.variant is not None,
            f"--method {m.method} builds on a checkpoint's features: --variant has none.",
        ),
        (
            m.source_config is not None and m.variant is not None,
            "--source_config is for another library's checkpoint: --variant has none.",
        ),
        (
            m.image_size is not None and not 1 <= len(m.image_size) <= 2,
            f"--image_size takes one number or two, not {m.image_size}.",
        ),
        (
            idle,
            f"--{', --'.join(idle)}: --method {m.method} {'chooses' if m.method == 'search' else 'makes no'} steps, "
            "leave it out or choose another method.",
        ),
        (
            m.method not in IN_STEPS and of_heads,
            f"--{', --'.join(of_heads)}: for --method fitted_head and search, not for {m.method}.",
        ),
        (
            d.shots is not None and d.max_train_samples is not None,
            "--shots and --max_train_samples both say how many images: leave one of them out.",
        ),
        (
            t.muon and m.method in ("linear_probe", "lora"),
            f"--muon trains whole matrices of blocks; --method {m.method} has none: leave it out.",
        ),
        (
            t.muon and not optim.startswith("adamw_torch"),
            f"--muon goes with --optim adamw_torch or adamw_torch_fused, not {optim}.",
        ),
        (
            t.optim_target_modules and not optim.startswith(LOW_RANK),
            f"--optim_target_modules is for --optim galore_… or apollo_…, not {optim}: leave it out.",
        ),
        (
            t.max_minutes is not None and (t.max_steps > 0 or t.warmup_steps >= 1),
            "--max_minutes finds the number of steps: leave --max_steps out, and give --warmup_steps as a share.",
        ),
        (0 < t.max_steps < t.warmup_steps, too_long(t.warmup_steps, t.max_steps)),
        (t.fp16 and not t.on_accelerator, "--fp16 would compute in float32 on a CPU: give --bf16 true."),
        (
            t.save_strategy == SaveStrategy.BEST and not validates,
            f"--save_strategy best would save nothing without validation: {validate}.",
        ),
        (
            t.early_stopping_patience and not validates,
            f"--early_stopping_patience {t.early_stopping_patience} counts validations: {validate}.",
        ),
        (
            checkpointing_kwargs(t) and not t.gradient_checkpointing,
            "--gradient_checkpointing_kwargs does nothing alone: give --gradient_checkpointing true.",
        ),
        (DebugOption.TPU_METRICS_DEBUG in t.debug, "--debug tpu_metrics_debug is for TPUs: leave it out."),
        (
            "trackio" not in (t.report_to or ())
            and (t.project != "huggingface" or t.trackio_space_id or t.trackio_bucket_id),
            "--project and --trackio_… are read by trackio alone: give --report_to trackio, or leave them out.",
        ),
        (t.fsdp and t.world_size == 1, "--fsdp shares weights among processes: start several, by `accelerate launch`."),
        (t.fsdp_config and not t.fsdp, "--fsdp_config does nothing alone: give --fsdp too, or leave it out."),
        (
            split or accumulation.get("num_steps", 1) != 1,
            f"--accelerator_config: {', '.join(split) or 'num_steps'} would change which images make a step, or are "
            "measured: leave it out; --gradient_accumulation_steps gives larger steps.",
        ),
    ]


def checkpointing_kwargs(t: ViTTrainingArguments) -> dict[str, Any]:
    """Return the keywords that are handed to torch's checkpoint."""
    own = ("every_n_layers", "offload") if hasattr(t, "activation_checkpointing") else ()
    given: Any = t.gradient_checkpointing_kwargs or {}
    return {name: value for name, value in given.items() if name not in own}


def try_parts(t: ViTTrainingArguments) -> None:
    """Build small versions of what Trainer will build by flags: optimizer, schedule, compilation, checkpointing.

    Raises UsageError for what cannot be built or would have no effect.
    """
    optim = OptimizerNames(t.optim).value
    try:
        made = Trainer.get_optimizer_cls_and_kwargs(t)
        without = copy.copy(t)
        without.optim_args = None
        if t.optim_args and made == Trainer.get_optimizer_cls_and_kwargs(without):
            raise UsageError(f"--optim_args {t.optim_args} changes nothing of --optim {optim}: leave it out.")
    except (ImportError, ValueError) as error:
        if isinstance(error, ImportError) or not optim.startswith(LOW_RANK):  # these need the model, not built yet
            raise _refused(f"--optim {optim}", error) from error
    name, steps = SchedulerType(t.lr_scheduler_type).value, 1000
    try:
        optimizer, kwargs = SGD([nn.Parameter(torch.zeros(()))], 1.0), t.lr_scheduler_kwargs or {}
        schedule = get_scheduler(name, optimizer, int(t.get_warmup_steps(steps)), steps, kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise _refused(f"--lr_scheduler_type {name} with --lr_scheduler_kwargs {kwargs}", error) from error
    if t.max_minutes is not None and not isinstance(schedule, LambdaLR):
        raise UsageError(f"--max_minutes cannot stretch --lr_scheduler_type {name}.")
    if t.torch_compile:
        backend, mode = str(t.torch_compile_backend), t.torch_compile_mode
        try:
            TorchDynamoPlugin(backend=backend, mode=mode)
            torch.compile(nn.Identity(), backend=backend, mode=mode)
        except (RuntimeError, ValueError) as error:
            raise _refused(f"--torch_compile_backend {backend}, --torch_compile_mode {mode}", error) from error
    if kwargs := checkpointing_kwargs(t):
        try:
            checkpoint(nn.Identity(), torch.ones(1, requires_grad=True), **{"use_reentrant": False, **kwargs})
        except (TypeError, ValueError) as error:
            raise _refused(f"--gradient_checkpointing_kwargs {kwargs}", error) from error


def _refused(flags: str, error: Exception) -> UsageError:
    return error if isinstance(error, UsageError) else UsageError(f"{flags} cannot be used: {error}")


def check_streaming(method: str, data_args: DataArguments, training_args: ViTTrainingArguments) -> None:
    """Raise UsageError for flags that a stream cannot serve, since it is read from front to back."""
    if not data_args.streaming:
        return
    if data_args.dataset is not None:
        raise UsageError(f"--streaming reads --train_dir or --dataset_name: --dataset {data_args.dataset} is small.")
    if data_args.balanced_sampling:
        raise UsageError(
            "--balanced_sampling needs all images at hand, which --streaming has not: --class_weights balanced weighs "
            "the classes instead."
        )
    if method in ("head_then_full", "fitted_head", "search"):
        raise UsageError(
            f"--method {method} fits the head to all images at once, which --streaming has not: train with "
            "--method linear_probe first, then start from its output."
        )
    if data_args.shots is not None:
        raise UsageError("--shots draws of all images, which --streaming has not: --max_train_samples takes the first.")
    if training_args.teacher is not None:
        raise UsageError("--teacher looks at all images first, which --streaming has not: leave one of them out.")
