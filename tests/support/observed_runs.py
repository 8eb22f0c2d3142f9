"""Trainings that show the effect of a flag, with their logs and files."""

import torch
from tiny_training import tiny_trainer

QUIETLY = ("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false")
SPLIT = ("--train_val_split", 0.25, "--num_train_epochs", 2, "--learning_rate", 1e-2, "--logging_steps", 1)


class Run:
    """A training and its results."""

    def __init__(self, folder, images, *flags):
        self.folder, self.batches = folder, []
        self.trainer, _ = tiny_trainer(folder, "--train_dir", images, *SPLIT, *QUIETLY, *flags)
        step = self.trainer.training_step

        def noted(model, inputs, *args, **kwargs):
            self.batches.append({name: tensor.clone() for name, tensor in inputs.items()})
            return step(model, inputs, *args, **kwargs)

        self.trainer.training_step = noted
        self.metrics = self.trainer.train().metrics
        self.weights = torch.cat([p.detach().flatten() for p in self.trainer.model.parameters()])

    def logged(self, name):
        """Return {step: value} of a logged name."""
        return {e["step"]: e[name] for e in self.trainer.state.log_history if name in e}
