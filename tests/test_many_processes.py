"""Several processes give the result of one process, with the configurations that we ship."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from many_processes import COLUMNS, FLAGS, PARTS_OF_OTHERS, ROWS, SCRATCH
from ranks import LAUNCH, free_port
from real_digits import write_class_folder
from safetensors.torch import load_file
from tiny_training import command
from transformers import AutoModelForImageClassification

SUPPORT = Path(__file__).parent / "support"
ENVIRONMENT = {
    **os.environ, "PYTHONPATH": str(SUPPORT.parents[1]), "OMP_NUM_THREADS": "1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_way_of_training_in_every_place():
    """Two processes, two nodes and shared weights equal one process, and each run resumes equal, bit for bit."""
    wanted = [row for row in ROWS if row not in PARTS_OF_OTHERS]
    line = [sys.executable, str(SUPPORT / "many_processes.py"), *wanted]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    cells = [row.strip("| ").split(" | ") for row in done.stdout.splitlines()[2:]]
    assert [row[0] for row in cells] == wanted and {len(row) for row in cells} == {1 + len(COLUMNS)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return (the images, the weights after training in one process)."""
    root = tmp_path_factory.mktemp("alone")
    images = write_class_folder(root / "digits", {"0": 16, "1": 16})
    run([sys.executable, "scripts/train.py", *flags(root / "o", images, 8)])
    return images, load_file(root / "o" / "model.safetensors")


def flags(output_dir: Path, images: Path, batch: int, *more) -> list[str]:
    more = (*FLAGS, "--per_device_train_batch_size", batch, *more)
    return command(output_dir, "--train_dir", images, *more, model=SCRATCH)


def run(*commands: list[str], **variables: str) -> None:
    started = [
        subprocess.Popen(
            line,
            cwd=SUPPORT.parents[1],
            env=ENVIRONMENT | variables | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for line, own in ((c, {"NODE_RANK": str(i)}) for i, c in enumerate(commands))
    ]
    outputs = [process.communicate(timeout=400)[0].decode() for process in started]
    assert not any(process.returncode for process in started), outputs[0][-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp", "fsdp2"])
def test_accelerate_launches_them(alone, tmp_path, config):
    images, expected = alone
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH / f"{config}.yaml")]
    launcher += ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", str(free_port())]
    run([*launcher, str(SUPPORT / "ranks.py"), *flags(tmp_path / "o", images, 4, "--ddp_backend", "gloo")])
    close(load_file(tmp_path / "o" / "model.safetensors"), expected)
    for folder in (tmp_path / "o", tmp_path / "o" / "checkpoint-4"):
        AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    sharded = (tmp_path / "o" / "checkpoint-4" / "pytorch_model_fsdp_0").is_dir()
    assert sharded == (config == "fsdp2")


@pytest.mark.slow
def test_two_machines_on_one(alone, tmp_path):
    images, expected = alone
    node = [str(LAUNCH / "multi_node.sh"), *flags(tmp_path / "o", images, 4, "--ddp_backend", "gloo")]
    run(node, node, NODES="2", GPUS="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    close(load_file(tmp_path / "o" / "model.safetensors"), expected)
    assert json.loads((tmp_path / "o" / "training_args.json").read_text())["training"]["processes"] == 2


def close(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] - other[name]).abs().max() < 1e-5, name


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_every_configuration(path):
    stored, read = yaml.safe_load(path.read_text()), load_config_from_file(str(path))
    assert read.distributed_type.value == stored["distributed_type"] and read.mixed_precision == "bf16"
    assert "ot run" in path.read_text(), "the file must say what was not run"


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.stem)
def test_the_shell_scripts_are_valid(path):
    assert subprocess.run(["bash", "-n", path]).returncode == 0 and os.access(path, os.X_OK)
