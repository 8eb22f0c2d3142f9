"""The part of the Trainer that makes runs resumable: complete checkpoints, and a resumed run equal bit for bit."""

import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy

from ...common.allocator import keep_freed_memory
from ...common.errors import UsageError
from ...common.json_files import write_json
from ...data.dataset import ImageDataset
from ...pretrained_vit_custom import nonfinite_weights
from ...weight_files_vit_custom import shorten_list
from ..arguments.training_arguments import ViTTrainingArguments
from ..checkpointing.checkpoints import (
    STATE_KEY,
    UNFINISHED,
    CheckpointError,
    checkpoint_defect,
    find_last_checkpoint,
    put_in_place,
    rotate,
    seal,
)
from ..checkpointing.disk import check_space, checkpoint_bytes, disk_full_explained
from .batches import BatchTrainer
from .sittings import Sittings

logger = logging.getLogger(__name__)


class ResumingTrainer(BatchTrainer):
    """Trainer whose checkpoints are atomic (see `checkpoints`) and which resumes from one as if never interrupted.

    It stops at the first NaN or infinite loss or gradient and names the images.
    On the same machine, with the same number of processes, a resumed run is equal bit for bit: weights, optimizer,
    logged losses, evaluations. (With three processes or more the sum of gradients may be rounded differently after a
    restart, since torch may add them in another order.)
    """

    args: ViTTrainingArguments

    def __init__(self, *args: Any, **kwargs: Any):
        keep_freed_memory()
        super().__init__(*args, **kwargs)
        self.processes = self.args.processes
        self.aside: str | None = None  # the folder into which a checkpoint is being written
        self.losses: list[tuple[torch.Tensor, torch.Tensor | None]] = []  # of this step: (loss, indices of examples)
        self.sittings = Sittings(self.args, self.throughput)
        self.add_callback(_TrainerHooks(self))

    # ---------- steps

    def training_step(self, model, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        index = inputs.get("index")
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.losses.append((loss, index))
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """As Trainer's. Raises FloatingPointError, before the optimizer's step, where loss or norm is not finite."""
        norm = super()._get_grad_norm(model, grad_norm)
        losses, self.losses = self.losses, []
        values = [loss for loss, _ in losses]
        if getattr(self.accelerator, "scaler", None) is None:  # fp16's loss scaling expects some infinite norms
            values.append(torch.as_tensor(norm, dtype=torch.float32, device=values[0].device))
        if not torch.stack(values).isfinite().all():
            raise FloatingPointError(self._diverged(losses, float(norm)))
        return norm

    def _diverged(self, losses: list[tuple[torch.Tensor, torch.Tensor | None]], norm: float) -> str:
        """An error message: what is not finite in this step, and the images of that loss, in any process."""
        bad = [(f"loss is {loss.item()}", index) for loss, index in losses if not loss.isfinite()]
        batches = [index for _, index in bad[:1] or losses if index is not None]
        report = (bad[0][0] if bad else None, [self._name(i) for index in batches for i in index.tolist()])
        # All processes share the norm: if it is not finite, all of them get here.
        reports = [report] if math.isfinite(norm) else self.processes.gathered(report)
        reports = [report for report in reports if report[0]] or reports
        names = [name for _, names in reports for name in names]
        return (
            f"the {reports[0][0] or f'norm of the gradient is {norm}'} at step {self.state.global_step + 1}"
            f"{f', on {shorten_list(names, limit=100)}' if names else ''}: one of the images is at fault, or the "
            f"training has diverged. Lower --learning_rate (now {self.args.learning_rate:g}), lengthen --warmup_steps, "
            "or resume from an earlier checkpoint."
        )

    def _name(self, index: int) -> str:
        dataset = self.train_dataset
        return str(dataset.examples.names[index]) if isinstance(dataset, ImageDataset) else f"example {index}"

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        """As Trainer's, except for a finished run that is resumed: Trainer would take one step too many."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(epoch=epoch, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as Trainer does, but correct the figures at the end of a training.

        The mean loss is over all steps, also those before the run was resumed. The speed counts the steps that were
        made, not those that were planned.
        """
        if "train_loss" in logs:
            logs["train_loss"] = self._total_loss_scalar / max(1, self.state.global_step - self.first_step)
            this, seconds = self.sittings.until(self.state.global_step)[-1], max(logs["train_runtime"], 1e-6)
            logs["train_samples_per_second"] = round(this["images"] / seconds, 3)
            logs["train_steps_per_second"] = round((this["last_step"] - this["first_step"]) / seconds, 3)
        super().log(logs, start_time)

    # ---------- continuing

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any):
        """Train as Trainer does; True means the newest undamaged checkpoint. Raises CheckpointError without one."""
        if resume_from_checkpoint is True:
            run = str(self.args.output_dir)
            checkpoint, notes = self.processes.from_first(lambda: find_last_checkpoint(run))
            if checkpoint is None:
                raise CheckpointError(f"{run} holds no checkpoint to go on from. {'; '.join(notes)}")
            for note in notes:
                logger.warning(note)
            resume_from_checkpoint = str(checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def begin(self) -> None:
        """Restore what Trainer does not, and check the disk space, before the first step.

        Raises CheckpointError where two checkpoints would not fit on the disk.
        """
        state: Any = self.state
        kept = state.stateful_callbacks.get(STATE_KEY)
        self.first_step = state.global_step if kept is None else 0
        self.sittings.begin(state.global_step, (kept or {}).get("sittings"))
        if kept is not None:
            sums = kept["losses"]
            same = len(sums) == self.processes.count
            self._tr_loss.fill_(sums[self.processes.rank] if same else sum(sums) / len(sums))
            self._total_loss_scalar, self._globalstep_last_logged = kept["total"], kept["logged"]
        if best := state.best_model_checkpoint or (kept and kept["best"]):
            folder = self.processes.from_first(lambda: self._find_best(Path(best)))
            state.best_model_checkpoint = folder
            if folder is None:
                state.best_metric = state.best_global_step = None
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ExportableState):
                before = state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
                for name, value in before["attributes"].items() if kept is not None else ():
                    setattr(callback, name, value)
        self.args.eval_on_start = self.args.eval_on_start and state.global_step == 0
        self.checkpoint_bytes = self.needed_bytes()
        if self.args.save_strategy != SaveStrategy.NO:
            run, needed = Path(str(self.args.output_dir)), 2 * self.checkpoint_bytes
            self.processes.from_first(lambda: check_space(run, needed, f"before step {state.global_step + 1}"))

    def needed_bytes(self) -> int:
        """Return the most bytes that a checkpoint can take."""
        return checkpoint_bytes(self.accelerator.unwrap_model(self.model))

    def step_done(self) -> None:
        """Handle the end of an optimizer step, before anything is logged, evaluated or saved (a hook, empty here)."""

    def _find_best(self, noted: Path) -> str | None:
        """The best checkpoint's folder, also if the run was moved; None, with a warning, if it is lost or damaged."""
        here = Path(str(self.args.output_dir)) / noted.name
        folder = noted if noted.is_dir() and not here.is_dir() else here
        if (defect := checkpoint_defect(folder, to_go_on=False)) is None:
            return str(folder)
        logger.warning(f"the best checkpoint so far, {folder}, is lost ({defect}): the best is now sought again")
        return None

    def best_checkpoint(self) -> str:
        """Return the folder of the best checkpoint. Raises CheckpointError where it is damaged."""
        folder = self.state.best_model_checkpoint
        if (defect := self.processes.from_first(lambda: checkpoint_defect(str(folder), to_go_on=False))) is not None:
            raise CheckpointError(
                f"the best checkpoint, {folder}, is no longer what was saved: {defect}. Run the same command again to "
                "keep the last model instead."
            )
        return str(folder)

    def _load_best_model(self) -> None:
        self.best_checkpoint()
        super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raises UsageError where the loaded checkpoint (resumed, or the best) has missing or unexpected weights."""
        for what, names in (("lacks", load_result.missing_keys), ("holds, unknown here,", load_result.unexpected_keys)):
            if names:
                raise UsageError(
                    f"the checkpoint {what} {shorten_list(list(names))}: it is of another model or damaged. Resume "
                    "from an earlier checkpoint, or name a new --output_dir."
                )

    # ---------- saving

    def _get_output_dir(self, trial: Any) -> str:
        return self.aside or super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial) -> None:
        """As Trainer's, but writes aside, then seals and renames once all processes have written.

        A failure in one process raises in all. Raises CheckpointError where the disk is full.
        """
        run, step, best = Path(self._get_output_dir(trial)), self.state.global_step, self.state.best_global_step
        folder = run / UNFINISHED / f"checkpoint-{step}"
        if best == step or (best and (run / f"checkpoint-{best}").is_dir()):
            self.state.best_model_checkpoint = str(run / f"checkpoint-{best}")
        self._store_state()
        self.processes.from_first(lambda: check_space(run, self.checkpoint_bytes, f"at step {step}"))

        def write() -> None:
            super(ResumingTrainer, self)._save_checkpoint(model, trial)

        def finish() -> None:
            if self.args.should_save:
                write_json(folder / TRAINER_STATE_NAME, asdict(self.state))
                self.checkpoint_bytes = max(self.checkpoint_bytes, seal(folder))
                put_in_place(folder, run)

        # With best_global_step None, Trainer's own method has no barrier: no process waits for one that has failed.
        self.aside, self.state.best_global_step = str(folder.parent), None
        with disk_full_explained(run, self.checkpoint_bytes, f"at step {step}", folder.parent):
            try:
                self.processes.together(write)
            finally:
                self.aside, self.state.best_global_step = None, best
            self.processes.together(finish)
        if self.args.should_save:
            kept = self.state.best_model_checkpoint
            rotate(run, self.args.save_total_limit, step, int(kept.rpartition("-")[2]) if kept else None)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run / folder.name))

    def _store_state(self) -> None:
        """Add to the state what Trainer does not save: losses since the last log, best folder's name, sittings."""
        best = self.state.best_model_checkpoint
        callbacks: Any = self.state.stateful_callbacks
        callbacks[STATE_KEY] = {
            "losses": self.processes.gathered(self._tr_loss.item()),
            "total": self._total_loss_scalar,
            "logged": self._globalstep_last_logged,
            "best": best and Path(best).name,
            "settings": self.sittings.settings,
            "sittings": self.sittings.until(self.state.global_step),
        }

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save model, code and processor, but not `training_args.bin`, a pickle that can hold a token.

        Raises FloatingPointError, before anything is written, where weights are NaN or infinite.
        """
        model: Any = self.model
        self._refuse_nonfinite("weights", nonfinite_weights(model))
        super()._save(output_dir, state_dict)
        (Path(output_dir or self.args.output_dir or ".") / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As Trainer's; raises FloatingPointError where the optimizer's state is NaN or infinite."""
        optimizer: Any = self.optimizer
        tensors = [(n, t) for state in optimizer.state.values() for n, t in state.items() if torch.is_tensor(t)]
        if tensors and not torch.stack([t.isfinite().all().cpu() for _, t in tensors]).all():
            self._refuse_nonfinite("states of the optimizer", sorted({n for n, t in tensors if not t.isfinite().all()}))
        super()._save_optimizer_and_scheduler(output_dir)

    def _refuse_nonfinite(self, what: str, names: list[str]) -> None:
        if names:
            raise FloatingPointError(
                f"NaN or infinite {what} at step {self.state.global_step}, not saved: {shorten_list(names)}. Lower "
                f"--learning_rate (now {self.args.learning_rate:g}) and resume from an earlier checkpoint."
            )


class _TrainerHooks(TrainerCallback):
    """Callback for what a ResumingTrainer does at moments for which Trainer has no method to override."""

    def __init__(self, trainer: ResumingTrainer):
        self.trainer, self.postponed = trainer, False

    def on_train_begin(self, args, state, control, **kwargs: Any):
        self.trainer.begin()

    def on_step_end(self, args, state, control, **kwargs: Any):
        """Call `step_done`; postpone a save at an epoch's last step until the epoch's end.

        A run that resumed from that step would skip what is due at the epoch's end, such as its evaluation.
        """
        self.trainer.step_done()
        self.postponed = control.should_save and float(state.epoch).is_integer()
        control.should_save = control.should_save and not self.postponed

    def on_epoch_end(self, args, state, control, **kwargs: Any):
        control.should_save, self.postponed = control.should_save or self.postponed, False
