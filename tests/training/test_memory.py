"""Memory that runs out in a training: one error that names the flags to change, and that a changed command goes on."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from real_digits import write_class_folder
from tiny_training import command

from modeling_vit_custom.commands.train import main as train_command
from modeling_vit_custom.common.memory import memory_sentence, out_of_memory
from modeling_vit_custom.common.model_files import TRAIN_LOG
from modeling_vit_custom.training.trainer.batches import BatchTrainer


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 24, "1": 24})


def run(out, digits, *flags):
    return train_command(command(out, "--train_dir", digits, *flags))


def allocate_too_much(*_args, **_kwargs):
    torch.empty(2**50)


def gpu_is_full(*_args, **_kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has …")


@pytest.mark.parametrize(("fails", "said"), [(allocate_too_much, "memory is not"), (gpu_is_full, "the GPU's memory")])
def test_memory_that_runs_out_in_a_step_names_the_flags_and_their_values(fails, said, digits, tmp_path, capsys):
    step, calls = BatchTrainer.training_step, []

    def training_step(*args, **kwargs):
        calls.append(1)
        return fails() if len(calls) == 8 else step(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchTrainer, "training_step", training_step)
        assert run(tmp_path / "o", digits) == 3
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert said in sentence and "checkpoint-5 is kept, and the same command goes on" in sentence
    assert "--per_device_train_batch_size 4 (now 8) with --gradient_accumulation_steps 2 (now 1)" in sentence
    assert (
        sentence.index("accumulation")
        < sentence.index("_checkpointing true (now false)")
        < sentence.index("--image_size (now 8)")
    )
    assert sentence in (tmp_path / "o" / TRAIN_LOG).read_text()
    newer = "activation_checkpointing" in sentence  # gradient_checkpointing is the older name
    fixed = ["--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2]
    fixed += ["--activation_checkpointing" if newer else "--gradient_checkpointing", "true"]
    assert run(tmp_path / "o", digits, *fixed) == 0, "what is advised can be done"


def test_memory_that_runs_out_in_a_validation_names_its_batch(digits, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchTrainer, "prediction_step", allocate_too_much)
        assert run(tmp_path / "o", digits, "--per_device_eval_batch_size", 6) == 3
    assert "Give --per_device_eval_batch_size 3 (now 6)." in capsys.readouterr().err


def test_errors_that_say_that_memory_ran_out():
    with pytest.raises(RuntimeError) as real:
        allocate_too_much()
    assert out_of_memory(real.value) and out_of_memory(MemoryError()) and out_of_memory(OSError(12, "no"))
    assert out_of_memory(torch.OutOfMemoryError()) and out_of_memory(RuntimeError("CUDNN_STATUS_ALLOC_FAILED"))
    assert not any(map(out_of_memory, (ValueError("out of memory"), OSError(28, "disk full"), RuntimeError("shape"))))
    assert memory_sentence(MemoryError(), ["a", "b"]) == "memory is not enough (MemoryError). Give a; or b."


LIMITED = """
import resource, sys
from modeling_vit_custom.commands.train import main
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 600 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_machine_that_is_too_small(digits, tmp_path):
    """An allocation that the operating system itself refuses."""
    big = ["--image_size", "512", "--per_device_train_batch_size", "32", "--num_train_epochs", "1"]
    words = command(tmp_path / "o", "--train_dir", digits, *big, "--dataloader_num_workers", 0)
    done = subprocess.run([sys.executable, "-c", LIMITED, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    assert "memory is not enough" in done.stderr and "Traceback" not in done.stderr
    assert "--per_device_train_batch_size 16 (now 32) with --gradient_accumulation_steps 2 (now 1)" in done.stderr
