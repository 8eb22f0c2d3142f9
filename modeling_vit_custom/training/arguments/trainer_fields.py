"""A table of the fields of transformers' TrainingArguments: their effects here, their facts, and which are refused.

The tests compare its names with the fields of the installed transformers, observe what works in a training, and write
docs/training_arguments.md from it.
"""

from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from ...tasks.task import ONE_LABEL
from .declarations import FITTED, IN_STEPS, MANY, TRAIN, Facts

NO_FACTS = Facts()
LOWEST, NEWEST = "5.10 only", "newer than 5.10"  # fields that only some of the supported transformers versions have


@dataclass(frozen=True)
class Works:
    """A field that works.   effect: observed by a test.   versions: LOWEST or NEWEST if not all have the field."""

    effect: str
    versions: str = ""
    facts: Facts = NO_FACTS


@dataclass(frozen=True)
class Refused:
    """A field for which any value but the default and the `harmless` ones is an error.

    reason: what another value would do.   fix: what to do instead.
    """

    reason: str
    fix: str = "leave it out"
    harmless: tuple = ()
    versions: str = ""


@dataclass(frozen=True)
class NotRunHere:
    """A field that is passed on unchanged to something that the tests' machine lacks.   needs: what that is."""

    needs: str
    effect: str
    versions: str = ""
    facts: Facts = NO_FACTS


Field = Works | Refused | NotRunHere
GPU = "a GPU"
TRACKIO = NotRunHere("trackio", "handed to trackio; without --report_to trackio refused")
CHECKPOINTING = "blocks are computed again in the backward pass: the same weights for less memory"
CHECKPOINTING_KWARGS = "handed to torch's checkpoint: with preserve_rng_state false dropout is drawn again"


def _section(group: str, daily: str, rows: dict[str, Field]) -> dict[str, Field]:
    """The rows with their heading in the help: --help shows the `daily` ones, --help_all all of them."""
    return {
        name: row
        if isinstance(row, Refused)
        else replace(row, facts=replace(row.facts, group=group, rare=name not in daily.split()))
        for name, row in rows.items()
    }


FIELDS: dict[str, Field] = {
    **_section("the run", "output_dir seed resume_from_checkpoint", {
    "output_dir": Works("the folder that is filled"),
    "do_train": Works("changes nothing: this command trains anyway"),
    "do_eval": Works("changes nothing: validation is measured anyway"),
    "do_predict": Works("changes nothing: a test set is measured anyway, once, at the end"),
    "seed": Works("other weights, another order", facts=Facts(range=(0, 2**32 - 1), recorded=True)),
    "data_seed": Works("another order of the same images", facts=Facts(range=(0, 2**32 - 1), recorded=True)),
    "full_determinism": Works("torch uses deterministic algorithms alone"),
    "resume_from_checkpoint": Works("false: trains again; a folder: goes on from it; otherwise from the newest"),
    "ignore_data_skip": Refused("would train on images of a cut-off epoch twice", "leave it out: skipping reads none"),
    "restore_callback_states_from_checkpoint": Refused("would restore twice what is restored anyway"),
    "enable_jit_checkpoint": Refused(
        "would end as if it were done what was asked to stop", "save often, by --save_strategy steps --save_steps"
    ),
    }),
    **_section(
        "optimization",
        "per_device_train_batch_size gradient_accumulation_steps num_train_epochs max_steps learning_rate "
        "lr_scheduler_type warmup_steps weight_decay label_smoothing_factor", {
    "per_device_train_batch_size": Works(
        "images of a step: twice as many, half the steps", facts=Facts(range=(1, MANY), recorded=True)
    ),
    "auto_find_batch_size": Refused(
        "would begin again with fewer images a step and other weights than those of the seed, and record neither",
        "give a smaller --per_device_train_batch_size, and --gradient_accumulation_steps",
    ),
    "gradient_accumulation_steps": Works(
        "batches of a step: twice as many, half the steps", facts=Facts(range=(1, MANY), recorded=True)
    ),
    "average_tokens_across_devices": Works("false: each process divides by its own images: other weights"),
    "num_train_epochs": Works(
        "passes over the images", facts=Facts(range=(1e-6, MANY), recorded=True, idle_for=IN_STEPS)
    ),
    "max_steps": Works("steps, whatever the epochs", facts=Facts(range=(1, MANY), recorded=True, idle_for=IN_STEPS)),
    "learning_rate": Works("the peak of the schedule", facts=Facts(range=(0, 3e38), recorded=True, idle_for=IN_STEPS)),
    "lr_scheduler_type": Works(
        "the schedule, each of transformers' own", facts=Facts(recorded=True, idle_for=IN_STEPS)
    ),
    "lr_scheduler_kwargs": Works("the schedule's own numbers", facts=Facts(recorded=True)),
    "warmup_steps": Works(
        "steps, or the share of them, until the peak", facts=Facts(range=(0, MANY), recorded=True, idle_for=IN_STEPS)
    ),
    "warmup_ratio": Works("as --warmup_steps below 1", LOWEST, facts=Facts(range=(0, 1))),
    "optim": Works(
        "torch's own: adamw_torch(_fused), adafactor, sgd, adagrad, rmsprop; others if installed",
        facts=Facts(recorded=True, idle_for=IN_STEPS),
    ),
    "optim_args": Works(
        "numbers of sgd, adagrad, rmsprop and others; refused where --optim has no use for them",
        facts=Facts(recorded=True),
    ),
    "optim_target_modules": NotRunHere("galore_torch or apollo_torch", "layers that they train; else refused"),
    "weight_decay": Works("other weights", facts=Facts(range=(0, 1000), recorded=True, idle_for=IN_STEPS)),
    "adam_beta1": Works("other weights", facts=Facts(range=(0, 0.9999999), recorded=True)),
    "adam_beta2": Works("other weights", facts=Facts(range=(0, 0.9999999), recorded=True)),
    "adam_epsilon": Works("other weights", facts=Facts(range=(0, 1), recorded=True)),
    "max_grad_norm": Works("gradients are cut to it; 0: never", facts=Facts(range=(0, MANY), recorded=True)),
    "label_smoothing_factor": Works(
        "another loss, of single labels; refused for other labels",
        facts=Facts(range=(0, 1), recorded=True, commands=(TRAIN,), needs=ONE_LABEL, idle_for=FITTED),
    ),
    "neftune_noise_alpha": Works("noise on the embedded patches, in training alone", facts=Facts(range=(0, 1000))),
    }),
    **_section("precision and speed", "bf16", {
    "bf16": Works("computes in bfloat16; weights stay float32", facts=Facts(recorded=True)),
    "fp16": NotRunHere(GPU, "computes in float16; refused on a CPU, which would not", facts=Facts(recorded=True)),
    "bf16_full_eval": Refused("would measure, and push, other weights than were trained", "give --bf16 true"),
    "fp16_full_eval": Refused("would measure, and push, other weights than were trained", "give --fp16 true"),
    "tf32": NotRunHere(GPU, "rounds products of float32; refused where there is none"),
    "activation_checkpointing": Works(CHECKPOINTING, NEWEST),
    "activation_checkpointing_kwargs": Works(CHECKPOINTING_KWARGS, NEWEST),
    "gradient_checkpointing": Works(CHECKPOINTING),
    "gradient_checkpointing_kwargs": Works(CHECKPOINTING_KWARGS),
    "torch_compile": Works("the same training, compiled"),
    "torch_compile_backend": Works("by which it is compiled"),
    "torch_compile_mode": Works("handed to torch.compile"),
    "torch_empty_cache_steps": NotRunHere(
        GPU, "gives memory back each so many steps", facts=Facts(range=(1, MANY))
    ),
    "use_cpu": Works("trains on the CPU"),
    "use_liger_kernel": Refused("has kernels for language models alone"),
    "liger_kernel_config": Refused("has kernels for language models alone"),
    "use_cache": Refused("is for text that is generated, and would be stored in the configuration"),
    }),
    **_section("logging", "report_to", {
    "logging_strategy": Works("logs by steps, by epochs, or not"),
    "logging_steps": Works("logs each so many steps, or share of all", facts=Facts(range=(1e-6, MANY))),
    "logging_first_step": Works("logs the first step too"),
    "logging_nan_inf_filter": Refused("would hide nothing: the first loss that is no number ends the run"),
    "logging_dir": Refused("is read by no one", "set TENSORBOARD_LOGGING_DIR", versions=LOWEST),
    "log_level": Works("how much is said"),
    "log_level_replica": Works("how much other processes than the first say"),
    "log_on_each_node": Works("false: only the first machine logs"),
    "disable_tqdm": Works("no bars of progress"),
    "report_to": Works("tensorboard's files; wandb and others if they are installed"),
    "run_name": NotRunHere("wandb, mlflow and the like", "handed to what --report_to names"),
    "project": TRACKIO,
    "trackio_space_id": TRACKIO,
    "trackio_bucket_id": TRACKIO,
    "trackio_static_space_id": TRACKIO,
    "include_num_input_tokens_seen": Refused("counts tokens of text", "leave it out", harmless=("no", False)),
    "skip_memory_metrics": Works("false: what memory training took is measured too"),
    "debug": Works("underflow_overflow: looks at each layer's numbers; tpu_metrics_debug is refused"),
    }),
    **_section("evaluation", "", {
    "eval_strategy": Works("validates by epochs, by steps, or at the end alone", facts=Facts(recorded=True)),
    "eval_steps": Works("validates each so many steps", facts=Facts(range=(1e-6, MANY), recorded=True)),
    "eval_delay": Works("not before so many epochs, or steps", facts=Facts(range=(0, MANY))),
    "eval_on_start": Works("before the first step as well"),
    "per_device_eval_batch_size": Works(
        "images of a batch; every image is measured once all the same", facts=Facts(range=(1, MANY))
    ),
    "eval_accumulation_steps": Works("predictions leave the device each so many batches", facts=Facts(range=(1, MANY))),
    "load_best_model_at_end": Works("the best model is what is left, false: the last", facts=Facts(recorded=True)),
    "metric_for_best_model": Works("by which it is the best; unknown ones are refused", facts=Facts(recorded=True)),
    "greater_is_better": Works("follows from the metric; the opposite, which keeps the worst model, is refused"),
    "prediction_loss_only": Refused("would leave no predictions to measure"),
    "eval_do_concat_batches": Refused("would measure batches for images"),
    "eval_use_gather_object": Refused("is for predictions that are no tensors"),
    "include_for_metrics": Refused("would keep all images in memory for metrics that read predictions and labels"),
    "batch_eval_metrics": Refused("is chosen by how many predictions there are"),
    "label_names": Refused("names what is called labels here", harmless=(["labels"],)),
    }),
    **_section("checkpoints", "", {
    "save_strategy": Works("saves by epochs, by steps, when best, or not"),
    "save_steps": Works("saves each so many steps", facts=Facts(range=(1e-6, MANY))),
    "save_total_limit": Works("checkpoints that are left", facts=Facts(range=(1, MANY))),
    "save_only_model": Works("checkpoints without optimizer, from which no run goes on"),
    "save_on_each_node": Refused("would write the same files at once: the folder is one that all machines see"),
    }),
    **_section("the Hub", "push_to_hub hub_model_id", {
    "push_to_hub": Works("publishes, checked as `publish` does", facts=Facts(commands=(TRAIN,))),
    "hub_model_id": Works("where"),
    "hub_strategy": Works("end, or every_save; the others, which upload pickled files, are refused"),
    "hub_private_repo": Works("makes the repository private"),
    "hub_always_push": Works("pushes even while an earlier push is under way"),
    "hub_revision": Works("the branch"),
    "hub_token": Refused("would be stored with the run", "set HF_TOKEN or run `hf auth login` instead"),
    }),
    **_section("data", "dataloader_num_workers", {
    "dataloader_num_workers": Works(
        "loading processes; the same images in the same order", facts=Facts(range=(0, 1024))
    ),
    "dataloader_prefetch_factor": Works("batches that each of them reads ahead", facts=Facts(range=(1, 1024))),
    "dataloader_persistent_workers": Works("they live on between epochs; the same images"),
    "dataloader_multiprocessing_context": Works("how they are started", NEWEST),
    "dataloader_pin_memory": NotRunHere(GPU, "batches in page-locked memory"),
    "dataloader_drop_last": Works("a last, smaller batch of training is left out; of validation nothing is"),
    "dataloader_in_order": Refused(
        "would measure predictions of some images by the labels of others, and not resume where it was",
        versions=NEWEST,
    ),
    "train_sampling_strategy": Refused("would change images in the same way in each epoch"),
    "length_column_name": Refused("is for text: images have no length"),
    "remove_unused_columns": Refused("would drop the images"),
    }),
    **_section("several processes", "", {
    "local_rank": NotRunHere("a launcher", "read by no one: the launcher's LOCAL_RANK counts"),
    "ddp_backend": Works("how processes talk; refused for a single one"),
    "ddp_timeout": Works("seconds that they wait for each other", facts=Facts(range=(1, MANY))),
    "ddp_find_unused_parameters": Works("handed to DistributedDataParallel"),
    "ddp_bucket_cap_mb": Works("handed to DistributedDataParallel", facts=Facts(range=(1, MANY))),
    "ddp_broadcast_buffers": Works("handed to DistributedDataParallel"),
    "ddp_static_graph": Works("handed to DistributedDataParallel"),
    "accelerator_config": Works("non_blocking and sync_each_batch; what splits batches otherwise is refused"),
    "parallelism_config": Refused("splits language models", "use --config_file scripts/launch/fsdp2.yaml"),
    "fsdp": NotRunHere("GPUs", "shares the weights; refused for a single process. scripts/launch/fsdp2.yaml does too"),
    "fsdp_config": NotRunHere("GPUs", "how; refused without --fsdp"),
    "deepspeed": NotRunHere("GPUs, deepspeed", "as scripts/launch/deepspeed.yaml; refused where it is missing"),
    }),
}  # fmt: skip


def refusal(args: Any) -> str | None:
    """Return why these TrainingArguments, not yet completed by transformers, cannot be used; None if they can."""
    for given in fields(args):
        known = FIELDS.get(given.name)
        if not isinstance(known, Refused):
            continue
        default = given.default_factory() if given.default_factory is not MISSING else given.default
        value = getattr(args, given.name)
        if value != default and (value or default) and value not in known.harmless:
            said = "" if given.name == "hub_token" else f" {value}"
            return f"--{given.name}{said} {known.reason}: {known.fix}."
    return None
