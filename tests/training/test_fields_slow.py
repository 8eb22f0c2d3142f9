"""Fields of TrainingArguments that need several processes to be observed, or are slow."""

import json
import sys

import numpy as np
import pytest
import torch
import torch.distributed
from observed_runs import QUIETLY, SPLIT, Run
from ranks import fork, log_to, places
from tiny_training import tiny_trainer
from transformers.trainer_utils import SchedulerType
from transformers.utils import logging

pytestmark = pytest.mark.slow
TORCHS = {
    "adamw_torch": "AdamW", "adamw_torch_fused": "AdamW", "adafactor": "Adafactor", "sgd": "SGD", "adagrad": "Adagrad",
    "rmsprop": "RMSprop",
}  # fmt: skip
# Arguments that these schedules require.
NUMBERS = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 2},
}


@pytest.mark.parametrize("optim", TORCHS)
def test_every_optimizer_of_torch_trains(digits, tmp_path, optim):
    run = Run(tmp_path / "o", digits, "--optim", optim)
    assert type(run.trainer.optimizer.optimizer).__name__ == TORCHS[optim]
    start = tiny_trainer(tmp_path / "p", "--train_dir", digits, *SPLIT)[0].model.parameters()
    moved = run.weights - torch.cat([p.detach().flatten() for p in start])
    assert run.weights.isfinite().all() and moved.abs().max() > 1e-4


@pytest.mark.parametrize("kind", [kind.value for kind in SchedulerType])
def test_every_schedule_runs_to_its_end(digits, tmp_path, kind):
    flags = ("--lr_scheduler_type", kind, "--lr_scheduler_kwargs", json.dumps(NUMBERS.get(kind, {})))
    rates = Run(tmp_path / "o", digits, *flags, "--eval_strategy", "epoch").logged("learning_rate")
    assert len(rates) == 6 and 0 < max(rates.values()) <= 1e-2


def test_spawned_loading_processes(digits, tmp_path):
    flags = ("--dataloader_num_workers", 1, "--dataloader_multiprocessing_context", "spawn")
    try:
        trainer, _ = tiny_trainer(tmp_path / "o", "--train_dir", digits, *SPLIT, *flags)
    except ValueError as error:  # older versions lack the field
        assert "--dataloader_multiprocessing_context" in str(error)
        return
    loader = trainer.get_eval_dataloader()
    assert loader.multiprocessing_context.get_start_method() == "spawn"
    here = trainer.eval_dataset.__getitems__(range(8))["pixel_values"]
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in loader]), here)


def _seen(environment, folder, images, flags):
    """Train in one of several processes, and write what it saw and its weights."""
    rank = environment["RANK"]
    log_to(folder / f"log{rank}")
    trainer, _ = tiny_trainer(folder / "run", "--train_dir", images, *SPLIT, *QUIETLY, *flags)
    trainer.train()
    output = trainer.predict(trainer.eval_dataset)
    seen = {
        "backend": torch.distributed.get_backend(), "seconds": trainer.args.ddp_timeout_delta.seconds,
        "logs": trainer.args.should_log, "verbosity": logging.get_verbosity(), "labels": output.label_ids.tolist(),
        "predictions": output.predictions.tolist(),
        "weights": torch.cat([p.detach().flatten() for p in trainer.net.parameters()]).tolist(),
    }  # fmt: skip
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    sys.exit(0)


def test_two_processes(digits, tmp_path):
    """Two machines, and batches that leave a remainder: 24 images by 10, 8 by 6."""
    flags = (
        "--ddp_backend", "gloo", "--ddp_timeout", 77, "--log_level_replica", "error", "--log_level", "info",
        "--per_device_train_batch_size", 5, "--per_device_eval_batch_size", 3, "--dataloader_drop_last", "false",
    )  # fmt: skip
    changes = {
        "whole": (), "machines": ("--log_on_each_node", "false"), "own": ("--average_tokens_across_devices", "false"),
        "dropping": ("--dataloader_drop_last", "true"),
    }  # fmt: skip
    torch.ones(1, requires_grad=True).sum().backward()  # as other tests in this process do
    seen = {}
    for name, more in changes.items():
        (folder := tmp_path / name).mkdir()
        codes = fork(_seen, places(2, nodes=2), folder, digits, (*flags, *more), method="forkserver")
        assert codes == [0, 0], (folder / "log1").read_text()[-3000:]
        seen[name] = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    first, second = seen["whole"]
    assert {(one["backend"], one["seconds"]) for one in (first, second)} == {("gloo", 77)}
    assert first["logs"] and second["logs"] and first["verbosity"] == second["verbosity"] == logging.INFO
    first, second = seen["machines"]
    assert first["logs"] and not second["logs"]
    assert (first["verbosity"], second["verbosity"]) == (logging.INFO, logging.ERROR)
    for name, (one, other) in seen.items():
        assert one["labels"] == other["labels"] == seen["whole"][0]["labels"] and len(one["labels"]) == 8, name
        assert np.shape(one["predictions"]) == (8, 2), "every image must be predicted once"
    weights = {name: torch.tensor(one["weights"]) for name, (one, _) in seen.items()}
    torch.testing.assert_close(weights["own"], weights["whole"])
    assert (weights["dropping"] - weights["whole"]).abs().max() > 1e-4
