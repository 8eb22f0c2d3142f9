"""Every field of TrainingArguments has the effect that its row states in a training, or is refused before any work."""

import json
import os
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from observed_runs import QUIETLY, Run
from real_digits import write_class_folder
from safetensors.torch import load_file
from tiny_training import command, tiny_train, tiny_trainer
from training_arguments import PAGE, page
from transformers import TrainingArguments
from transformers.trainer_pt_utils import EvalLoopContainer
from transformers.utils import logging

from modeling_vit_custom.commands.train import main as train_command
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.training.arguments.trainer_fields import FIELDS, Refused, Works
from modeling_vit_custom.training.arguments.training_arguments import ViTTrainingArguments
from modeling_vit_custom.training.checkpointing.checkpoints import numbered
from modeling_vit_custom.training.trainer import batches
from modeling_vit_custom.training.trainer.progress import Bar, Lines

INSTALLED = {field.name: field for field in fields(TrainingArguments)}
# Tests in other files that observe a field.
OBSERVED = {
    "bf16": "test_options.py::test_bf16_computes_in_half_and_keeps_weights_whole",
    "torch_compile": "test_options.py::test_compiled_training_is_the_same_training",
    "torch_compile_backend": "test_options.py::test_compiled_training_is_the_same_training",
    "resume_from_checkpoint": "test_resuming.py::test_true_means_the_newest_checkpoint_that_is_whole",
    "greater_is_better": "test_arguments.py::test_the_best_is_the_best",
    "hub_model_id": "test_hub_push.py::test_checkpoints_and_the_finished_model_are_published_complete_",
    "hub_revision": "test_hub_push.py::test_a_branch_is_published_to",
    "optim": "test_fields_slow.py::test_every_optimizer_of_torch_trains",
    "ddp_backend": "test_fields_slow.py::test_two_processes",
    "ddp_timeout": "test_fields_slow.py::test_two_processes",
    "log_on_each_node": "test_fields_slow.py::test_two_processes",
    "log_level_replica": "test_fields_slow.py::test_two_processes",
    "average_tokens_across_devices": "test_fields_slow.py::test_two_processes",
    "dataloader_multiprocessing_context": "test_fields_slow.py::test_spawned_loading_processes",
}
OBSERVED |= dict.fromkeys(
    ("push_to_hub", "hub_strategy", "hub_always_push", "hub_private_repo"), OBSERVED["hub_model_id"]
)


def observes(*names):
    """Record that the test below observes what the table says of these fields."""

    def note(test):
        OBSERVED.update(dict.fromkeys(names, f"{Path(__file__).name}::{test.__name__}"))
        return test

    return note


@pytest.fixture(scope="module")
def plain(digits, tmp_path_factory):
    return Run(tmp_path_factory.mktemp("plain") / "o", digits)


def test_the_table_has_the_fields_of_the_installed_transformers():
    """A new field needs a decision before it is supported; a field that is gone must be marked as of some versions
    only."""
    assert not INSTALLED.keys() - FIELDS.keys()
    assert all(FIELDS[name].versions for name in FIELDS.keys() - INSTALLED.keys())


def test_what_works_was_observed():
    assert OBSERVED.keys() == {name for name, field in FIELDS.items() if isinstance(field, Works)}
    for place in {*OBSERVED.values()}:
        file, _, test = place.partition("::")
        assert f"def {test}" in (Path(__file__).parent / file).read_text(), place


def test_the_page_is_what_the_table_says():
    assert PAGE.read_text(encoding="utf-8") == page()


# ---------- refused


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if isinstance(field, Refused)])
def test_refused_by_name_and_what_is_there_by_default_is_not(name):
    if name not in INSTALLED:
        with pytest.raises(TypeError, match=name):
            ViTTrainingArguments("o", **{name: "something"})
        return
    field = next(field for field in fields(ViTTrainingArguments) if field.name == name)
    default = field.default if field.default_factory is MISSING else field.default_factory()
    asked = (not default) if isinstance(default, bool) else "something"
    with pytest.raises(UsageError, match=f"^--{name} .*: .*") as caught:
        ViTTrainingArguments("o", **{name: asked})
    assert "something" not in str(caught.value) or name != "hub_token"
    ViTTrainingArguments("o", use_cpu=True, **{name: default})


ALIAS = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")  # the newer name of the field


@ALIAS
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--learning_rate", "nan"), "--learning_rate nan: give a number from 0"),
        (("--learning_rate", -1), "--learning_rate"),
        (("--per_device_train_batch_size", 0), "--per_device_train_batch_size 0"),
        (("--per_device_eval_batch_size", -1), "--per_device_eval_batch_size -1"),
        (("--gradient_accumulation_steps", 0), "--gradient_accumulation_steps 0"),
        (("--num_train_epochs", 0), "--num_train_epochs 0"),
        (("--max_steps", 0), "--max_steps 0"),
        (("--adam_beta1", 1.5), "--adam_beta1"),
        (("--data_seed", -1), "--data_seed -1"),
        (("--save_total_limit", 0), "--save_total_limit 0"),
        (("--eval_steps", -2, "--eval_strategy", "steps", "--save_strategy", "steps"), "--eval_steps"),
        (("--save_steps", 0, "--load_best_model_at_end", "false"), "--save_steps 0"),
        (("--dataloader_num_workers", -3), "--dataloader_num_workers -3"),
        (("--warmup_steps", -1), "warmup_steps"),
        (("--eval_strategy", "no"), "save and eval strategy to match"),
        (("--save_strategy", "best", "--eval_strategy", "no"), "--save_strategy best"),
        ((*QUIETLY, "--early_stopping_patience", 2), "--early_stopping_patience 2 counts validations"),
        (("--fp16", "true"), "--bf16 true"),
        (("--tf32", "true"), "--tf32"),
        (("--optim", "lomo"), "--optim lomo cannot be used: .*lomo"),
        (("--optim", "galore_adamw"), "--optim galore_adamw cannot be used: .*galore"),
        (("--optim_args", "rank=2"), "--optim_args rank=2 changes nothing of --optim adamw_torch"),
        (("--optim_target_modules", "q_proj"), "--optim_target_modules is for"),
        (("--lr_scheduler_type", "cosine_with_min_lr"), "cosine_with_min_lr .*min_lr"),
        (("--lr_scheduler_kwargs", '{"odd": 1}'), "--lr_scheduler_kwargs .*odd"),
        (("--lr_scheduler_type", "greedy", "--max_minutes", 1), "--max_minutes cannot stretch"),
        (("--torch_compile_backend", "odd"), "--torch_compile_backend odd"),
        (("--gradient_checkpointing_kwargs", '{"use_reentrant": true}'), "does nothing alone"),
        (("--accelerator_config", '{"even_batches": false}'), "--accelerator_config: even_batches"),
        (("--accelerator_config", '{"split_batches": true}'), "--accelerator_config: split_batches"),
        (("--accelerator_config", '{"gradient_accumulation_kwargs": {"num_steps": 2}}'), "num_steps"),
        (("--debug", "tpu_metrics_debug"), "--debug tpu_metrics_debug"),
        (("--project", "mine"), "--report_to trackio"),
        (("--ddp_backend", "gloo"), "--ddp_backend is for several processes"),
        (("--fsdp", "full_shard"), "--fsdp"),
        (("--fsdp_config", '{"min_num_params": 1}'), "--fsdp_config"),
        (("--deepspeed", '{"zero_optimization": {"stage": 2}}'), "deepspeed"),
        (("--metric_for_best_model", "odd"), "--metric_for_best_model odd: .* has accuracy"),
        (("--metric_for_best_model", "top5_accuracy"), "--metric_for_best_model top5_accuracy"),
        (("--greater_is_better", "false"), "would keep the worst model by accuracy"),
        (("--odd", "1"), "--odd is no flag"),
    ],
)
def test_values_that_break_a_training_are_refused_before_it(digits, tmp_path, flags, message):
    with pytest.raises(UsageError, match=message):
        tiny_train(tmp_path / "o", "--train_dir", digits, *flags)
    assert not list(tmp_path.glob("o/*model*"))


def test_a_refused_flag_is_a_sentence_and_an_exit_code(digits, tmp_path, capsys):
    asked = command(tmp_path / "o", "--train_dir", digits, "--prediction_loss_only", "true")
    assert train_command(asked) == 2 and not (tmp_path / "o").exists()
    assert "train: --prediction_loss_only True would leave no predictions" in capsys.readouterr().err


# ---------- one field, other weights


OTHER_WEIGHTS = {
    "learning_rate": 2e-2, "weight_decay": 0.9, "adam_beta1": 0.5, "adam_beta2": 0.5, "adam_epsilon": 1e-2,
    "max_grad_norm": 0.01, "label_smoothing_factor": 0.3, "neftune_noise_alpha": 30, "seed": 7, "data_seed": 7,
}  # fmt: skip


def test_the_same_flags_give_the_same_weights(plain, digits, tmp_path):
    """Only then is a difference an effect of the flag."""
    assert torch.equal(Run(tmp_path / "o", digits).weights, plain.weights)


@observes(*OTHER_WEIGHTS)
@pytest.mark.parametrize("name", OTHER_WEIGHTS)
def test_other_weights(plain, digits, tmp_path, name):
    other = Run(tmp_path / "o", digits, f"--{name}", OTHER_WEIGHTS[name])
    assert (other.weights - plain.weights).abs().max() > 1e-4 and other.weights.isfinite().all()
    first, same = ([run.batches[0]["index"] for run in runs] for runs in ((other, plain), (plain, plain)))
    assert torch.equal(*first) == ("seed" not in name) and torch.equal(*same)
    everything = torch.cat([batch["index"] for batch in other.batches[:3]])
    assert sorted(everything.tolist()) == list(range(24)), "each image must occur once"


# ---------- many fields, one training


BUSY = {
    "num_train_epochs": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
    "logging_first_step": "true", "logging_steps": 4,
    "eval_strategy": "steps", "eval_steps": 3, "eval_delay": 4, "eval_on_start": "true",
    "per_device_eval_batch_size": 3, "eval_accumulation_steps": 2,
    "save_strategy": "steps", "save_steps": 3, "save_total_limit": 2,
    "learning_rate": 0.02, "lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": '{"power": 2.0, "lr_end": 0.0}',
    "warmup_steps": 2, "optim": "sgd", "optim_args": "momentum=0.5",
    "disable_tqdm": "false", "log_level": "error", "report_to": "tensorboard", "skip_memory_metrics": "false",
    "ddp_bucket_cap_mb": 7, "ddp_broadcast_buffers": "true", "ddp_static_graph": "true",
    "ddp_find_unused_parameters": "true", "accelerator_config": '{"non_blocking": true}', "use_cpu": "true",
    "debug": "underflow_overflow",
}  # fmt: skip


@pytest.fixture(scope="module")
def busy(digits, tmp_path_factory):
    before, moved, whole = logging.get_verbosity(), [], EvalLoopContainer.to_cpu_and_numpy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EvalLoopContainer, "to_cpu_and_numpy", lambda self: (moved.append(self), whole(self)))
        run = Run(tmp_path_factory.mktemp("busy") / "o", digits, *(w for n, v in BUSY.items() for w in (f"--{n}", v)))
    run.verbosity, run.moved = logging.get_verbosity(), moved
    logging.set_verbosity(before)
    return run


@observes("output_dir", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps")
def test_steps(busy):
    assert busy.trainer.state.global_step == 3 * 24 / (4 * 2) and numbered(busy.folder)
    assert {len(batch["index"]) for batch in busy.batches} == {4} and len(busy.batches) == 3 * 24 / 4


@observes("logging_steps", "logging_first_step", "log_level", "disable_tqdm", "report_to", "skip_memory_metrics")
def test_logging(busy, plain):
    assert [*busy.logged("loss")] == [1, 4, 8] and [*plain.logged("loss")] == [1, 2, 3, 4, 5, 6]
    assert busy.verbosity == logging.ERROR
    kinds = [type(callback) for run in (busy, plain) for callback in run.trainer.callback_handler.callbacks]
    assert kinds.count(Bar) == 1 and kinds.count(Lines) == 1
    assert list(busy.folder.glob("runs/*/events*")) and not (plain.folder / "runs").exists()
    assert "train_mem_cpu_alloc_delta" in busy.metrics and "train_mem_cpu_alloc_delta" not in plain.metrics


@observes("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "eval_accumulation_steps")
def test_validation(busy, plain):
    assert [*busy.logged("eval_accuracy")] == [0, 6, 9] and not plain.logged("eval_accuracy")
    moved_at_the_end, moved_on_the_way = 4, 4  # losses, predictions, labels, inputs: after 2 of 3 batches
    assert len(busy.moved) == 3 * (moved_at_the_end + moved_on_the_way)


@observes("save_strategy", "save_steps", "save_total_limit")
def test_checkpoints(busy, plain):
    assert sorted(numbered(busy.folder)) == [6, 9] and not numbered(plain.folder)


@observes("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim_args", "debug")
def test_optimizer_and_schedule(busy):
    rates = busy.logged("learning_rate")
    expected = {1: 0.0, 4: 0.02 * (1 - 1 / 7) ** 2, 8: 0.02 * (1 - 5 / 7) ** 2}  # two steps of warm-up, 7 more
    assert rates == pytest.approx(expected)
    optimizer = busy.trainer.optimizer.optimizer
    assert isinstance(optimizer, torch.optim.SGD) and {group["momentum"] for group in optimizer.param_groups} == {0.5}
    hooks = busy.trainer.model.vit._forward_hooks.values()
    assert any(hook.__module__ == "transformers.debug_utils" for hook in hooks)


@observes("ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_find_unused_parameters")
@observes("accelerator_config", "use_cpu")
def test_handed_to_accelerate(busy, plain):
    handler, whole = busy.trainer.accelerator.ddp_handler, plain.trainer.accelerator.ddp_handler
    assert handler.bucket_cap_mb == 7 and handler.broadcast_buffers and handler.static_graph
    assert handler.find_unused_parameters and not whole.find_unused_parameters and not whole.static_graph
    assert busy.trainer.accelerator.non_blocking and not plain.trainer.accelerator.non_blocking
    assert busy.trainer.args.device.type == "cpu" and not busy.trainer.args.on_accelerator


# ---------- the best


@observes("logging_strategy", "load_best_model_at_end", "metric_for_best_model", "max_steps", "save_only_model")
@observes("do_train", "do_eval", "do_predict", "dataloader_drop_last", "per_device_eval_batch_size")
def test_the_model_alone_is_saved_and_the_best_is_left(digits, tmp_path):
    """A whole run: its loss only grows, so the first model is the best."""
    flags = (
        "--train_dir", digits, "--test_dir", write_class_folder(tmp_path / "t", {"0": 4, "1": 3}, first=20),
        "--train_val_split", 0.25, "--per_device_train_batch_size", 7, "--per_device_eval_batch_size", 5, "--optim",
        "sgd", "--learning_rate", 9, "--lr_scheduler_type", "constant", "--logging_strategy", "epoch", "--max_steps", 6,
        "--save_only_model", "true", "--save_strategy", "best", "--metric_for_best_model", "loss", "--save_total_limit",
        5, "--dataloader_drop_last", "true", "--do_train", "true", "--do_eval", "true", "--do_predict", "true",
    )  # fmt: skip
    metrics = tiny_train(tmp_path / "o", *flags)
    assert metrics["validation"]["n"] == 8 and metrics["test"]["n"] == 7, "no validation or test image may be left out"
    saved = numbered(tmp_path / "o")
    state = json.loads((saved[max(saved)] / "trainer_state.json").read_text())
    assert state["max_steps"] == 6 and 24 // 7 == 3, "training leaves out a last batch of 3 images"
    assert [e["step"] for e in state["log_history"] if "loss" in e][:1] == [3]
    best = metrics["best"]["step"]
    assert best == max(saved) == 3 < 6, "later models are worse and must not be saved"
    assert state["best_metric"] == min(e["eval_loss"] for e in state["log_history"] if "eval_loss" in e)
    assert not list((tmp_path / "o").glob("checkpoint-*/optimizer*")), "only the model must be saved"
    left, served = load_file(saved[best] / "model.safetensors"), load_file(tmp_path / "o" / "model.safetensors")
    assert all(torch.equal(left[name], served[name]) for name in left)
    assert tiny_train(tmp_path / "o", *flags) == metrics, "an ended run must report its metrics again"
    (tmp_path / "o" / "model.safetensors").unlink()  # as if it had been killed before its end
    with pytest.raises(UsageError, match=r"no checkpoint can be continued from: .*scheduler.pt is missing"):
        tiny_train(tmp_path / "o", *flags)


# ---------- loading


@observes("dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers")
def test_loading_processes_bring_the_same_images(plain, digits, tmp_path):
    flags = ("--dataloader_num_workers", 1, "--dataloader_prefetch_factor", 3, "--dataloader_persistent_workers")
    run = Run(tmp_path / "o", digits, *flags, "true")
    loader = run.trainer.get_train_dataloader()
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (1, 3, True)
    assert len(run.batches) == len(plain.batches) == 6
    for one, other in zip(run.batches, plain.batches, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_without_loading_processes_there_is_nothing_to_tell_them(digits, tmp_path):
    flags = ("--dataloader_persistent_workers", "true", "--dataloader_prefetch_factor", 2, "--max_steps", 1)
    assert Run(tmp_path / "o", digits, *flags).trainer.args.dataloader_num_workers == 0, "the cache needs none"


COUNTS = {
    "an incomplete last batch": ("--per_device_eval_batch_size", 3),
    "which training drops": ("--per_device_eval_batch_size", 3, "--dataloader_drop_last", "true"),
    "larger than all": ("--per_device_eval_batch_size", 64, "--dataloader_drop_last", "true"),
    "moved on the way": ("--per_device_eval_batch_size", 3, "--eval_accumulation_steps", 1),
    "by a loading process": (
        "--per_device_eval_batch_size", 3, "--dataloader_num_workers", 1, "--dataloader_persistent_workers", "true",
        "--dataloader_drop_last", "true",
    ),
}  # fmt: skip


@pytest.mark.parametrize("flags", COUNTS.values(), ids=COUNTS)
def test_validation_measures_every_image_once(digits, tmp_path, flags):
    trainer, splits = tiny_trainer(tmp_path / "o", "--train_dir", digits, "--train_val_split", 0.25, *flags)
    dataset = trainer.eval_dataset
    output = trainer.predict(dataset)
    model = trainer.model.eval()
    with torch.no_grad():
        pixels = trainer.to_pixel_values(dataset.__getitems__(range(8))["pixel_values"])
        alone = torch.cat([model(pixels[i : i + 1]).logits for i in range(8)])
    torch.testing.assert_close(torch.tensor(output.predictions), alone, atol=1e-5, rtol=1e-4)
    assert output.label_ids.tolist() == splits.validation.targets.values.tolist()
    assert trainer.evaluate()["eval_accuracy"] == float((alone.argmax(1).numpy() == output.label_ids).mean())


def test_figures_of_only_some_images_are_refused(digits, tmp_path):
    """The figures come from a loader that leaves some images out, which no flag can cause."""
    flags = ("--train_val_split", 0.25, "--per_device_eval_batch_size", 3, "--dataloader_drop_last", "true")
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *flags)
    some = super(type(trainer).__mro__[3], trainer).get_test_dataloader(trainer.eval_dataset)
    with pytest.raises(RuntimeError, match="6 predictions of 8 images"):
        trainer.evaluation_loop(some, "Prediction")


def test_many_predictions_are_measured_batch_by_batch_to_the_same_figures(tmp_path, digits, monkeypatch):
    """No prediction is kept, and every figure equals, to the last bit, that of all predictions at once."""
    flags = ("--train_val_split", 0.25, "--per_device_eval_batch_size", 3)
    trainer, splits = tiny_trainer(tmp_path / "o", "--train_dir", digits, *flags)
    whole = trainer.evaluate()
    kept = trainer.predict(trainer.eval_dataset)
    monkeypatch.setattr(batches, "KEPT", 0)
    streamed = trainer.evaluate()
    assert trainer.args.batch_eval_metrics and trainer.compute_metrics.seen == len(splits.validation)
    figures = [name for name in whole if not name.endswith(("runtime", "per_second"))]
    assert {name: streamed[name] for name in figures} == {name: whole[name] for name in figures}
    assert len(figures) >= 4
    again = trainer.predict(trainer.eval_dataset)
    assert np.array_equal(again.predictions, kept.predictions), "prediction must keep all of them"


# ---------- the rest


def version_names():
    return [name for name in ("gradient", "activation") if f"{name}_checkpointing" in INSTALLED]


@observes("gradient_checkpointing", "activation_checkpointing")
@observes("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
@pytest.mark.parametrize("name", version_names())
@ALIAS
def test_checkpointed_blocks(plain, digits, tmp_path, name):
    asked = (f"--{name}_checkpointing", "true", f"--{name}_checkpointing_kwargs")
    same = Run(tmp_path / "1", digits, *asked, '{"use_reentrant": false}')
    torch.testing.assert_close(same.weights, plain.weights)
    other = Run(tmp_path / "2", digits, *asked, '{"use_reentrant": false, "preserve_rng_state": false}')
    assert (other.weights - plain.weights).abs().max() > 1e-4, "the backward pass must draw other dropout"


@observes("torch_compile_mode")
def test_the_mode_is_handed_to_the_compiler(digits, tmp_path):
    flags = ("--torch_compile_backend", "eager", "--torch_compile_mode", "reduce-overhead")
    trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *flags)
    plugin = trainer.accelerator.state.dynamo_plugin
    assert (plugin.backend, plugin.mode) == ("EAGER", "reduce-overhead") and trainer.args.torch_compile


@observes("full_determinism")
def test_deterministic_algorithms(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", os.environ.copy())  # it sets variables for CUDA
    try:
        tiny_trainer(tmp_path / "o", "--train_dir", digits, "--full_determinism", "true")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    tiny_trainer(tmp_path / "p", "--train_dir", digits)
    assert not torch.are_deterministic_algorithms_enabled()


@observes("warmup_ratio")
def test_warmup_ratio_is_warmup_steps():
    name = "warmup_ratio" if "warmup_ratio" in INSTALLED else "warmup_steps"
    assert ViTTrainingArguments("o", **{name: 0.25}).get_warmup_steps(100) == 25
