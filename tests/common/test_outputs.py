"""Results replace files and links, are written into pipes and devices, and leave everything else alone."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from audit_folders import write_clean
from real_digits import write_class_folder, write_digit
from saved_models import save_ours

from modeling_vit_custom.commands.audit_data import main as audit_data
from modeling_vit_custom.commands.benchmark_scaling import main as benchmark_scaling
from modeling_vit_custom.commands.convert import main as convert
from modeling_vit_custom.commands.evaluate import main as evaluate
from modeling_vit_custom.commands.export import main as export
from modeling_vit_custom.commands.predict import main as predict
from modeling_vit_custom.common import lock
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.common.json_files import write_json
from modeling_vit_custom.common.outputs import OutputError, check_new_folder, new_folder
from modeling_vit_custom.inference.resume import ResumableLines
from modeling_vit_custom.publishing.staging import StagingError, stage
from modeling_vit_custom.speed.section import write_section
from modeling_vit_custom.training.checkpointing.continuing import check_output_dir


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_ours(tmp_path_factory.mktemp("models") / "ours")


def make_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


MADE = {
    "a named pipe": os.mkfifo,
    "a socket": make_socket,
    "a folder": os.mkdir,
    "a device": lambda path: path.symlink_to("/dev/null"),
}


@pytest.fixture(params=MADE)
def odd(request, tmp_path):
    """Return (a path that is not a regular file, its kind)."""
    path = tmp_path / "output"
    MADE[request.param](path)
    return path, request.param


def unchanged(path, before):
    now = os.lstat(path)
    return (now.st_ino, now.st_mode) == (before.st_ino, before.st_mode)


def test_predict_leaves_what_is_no_file_alone_before_a_model_is_loaded(odd, tmp_path, capsys):
    path, kind = odd
    before = os.lstat(path)
    arguments = ["--model", str(tmp_path / "no-model"), str(tmp_path), "--output", str(path), "--overwrite"]
    assert predict(arguments) == 2
    assert f"{path} is {kind}: it is not replaced. Name a file." in capsys.readouterr().err
    assert unchanged(path, before) and [child.name for child in tmp_path.iterdir()] == ["output"]


@pytest.mark.parametrize("beside", ["out.jsonl.meta.json", "out.jsonl.tmp", "out.jsonl.part-0003"])
def test_the_files_beside_the_output_of_predict_are_no_devices_either(tmp_path, beside):
    os.mkfifo(tmp_path / beside)
    with pytest.raises(OutputError, match=f"{beside} is a named pipe"):
        ResumableLines(tmp_path / "out.jsonl")


def test_every_command_refuses_a_socket_or_a_folder_by_its_flag_before_any_work(tmp_path, capsys):
    make_socket(tmp_path / "odd")
    missing, odd = str(tmp_path / "missing"), str(tmp_path / "odd")
    commands = [
        (evaluate, ["--model", missing, "--data_dir", missing, "--output", odd], "--output"),
        (evaluate, ["--model", missing, "--data_dir", missing, "--html", str(tmp_path)], "--html"),
        (audit_data, [missing, "--json", odd], "--json"),
        (audit_data, [missing, "--html", odd], "--html"),
        (benchmark_scaling, ["--output", odd], "--output"),
        (benchmark_scaling, ["--plot", odd], "--plot"),
    ]
    for command, arguments, flag in commands:
        with pytest.raises(SystemExit, match="2"):
            command(arguments)
        assert f"argument {flag}: " in (said := capsys.readouterr().err) and "it is not replaced. Name a file." in said
    for command, arguments in (
        (export, ["--model", missing, "--output", odd]),
        (convert, [missing, odd]),
        (convert, [missing, str(tmp_path / "odd" / "below")]),
    ):
        assert command(arguments) == 2
        assert odd in capsys.readouterr().err
    assert stat.S_ISSOCK(os.lstat(odd).st_mode)


def test_a_link_is_replaced_itself_and_its_file_stays(tmp_path):
    (tmp_path / "shared.json").write_text("shared")
    for name, target in (("link", "shared.json"), ("dangling", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / target)
        write_json(tmp_path / name, {"a": 1})
        assert not (tmp_path / name).is_symlink() and json.loads((tmp_path / name).read_text()) == {"a": 1}
    assert (tmp_path / "shared.json").read_text() == "shared" and not (tmp_path / "nowhere").exists()


def test_predict_replaces_links_and_writes_through_none(model, tmp_path):
    write_digit(tmp_path / "3.png", 3)
    (tmp_path / "mine.txt").write_text("mine")
    for name in ("out.jsonl", "out.jsonl.tmp", "out.jsonl.meta.json"):
        (tmp_path / name).symlink_to(tmp_path / "mine.txt")
    output = tmp_path / "out.jsonl"
    assert predict(["--model", str(model), str(tmp_path / "3.png"), "--output", str(output), "--overwrite"]) == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert not output.is_symlink() and len(output.read_text().splitlines()) == 1


def test_the_speeds_of_a_cached_model_do_not_reach_the_file_that_its_card_links_to(tmp_path):
    (tmp_path / "blob").write_text("card")
    (tmp_path / "README.md").symlink_to(tmp_path / "blob")
    exact = {"name": "exact", "ratio": 1.0, "images_per_second": 1.0, "accuracy": 1.0, "n": 1}
    exact |= {"difference": 0.0, "low": 0.0, "high": 0.0}
    report = {"rows": [exact], "front": ["exact"], "speeds": {}, "device": "cpu", "cpu_cores": 1, "batch_size": 1}
    write_section(tmp_path / "README.md", report)
    assert (tmp_path / "blob").read_text() == "card" and "## Speeds" in (tmp_path / "README.md").read_text()


def test_a_report_goes_into_a_pipe_which_stays(model, tmp_path):
    digits = write_class_folder(tmp_path / "digits", {str(d): 2 for d in range(10)})
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert evaluate(["--model", str(model), "--data_dir", str(digits), "--output", str(tmp_path / "pipe")]) == 0
    reader.join(10)
    assert json.loads(read[0])["n"] == 20
    assert stat.S_ISFIFO(os.lstat(tmp_path / "pipe").st_mode)
    assert {path.name for path in tmp_path.iterdir()} == {"digits", "pipe"}, "a picture lies beside a pipe"


def test_dev_null_stays_a_device(tmp_path):
    before = os.lstat("/dev/null")
    assert audit_data([str(write_clean(tmp_path / "data")), "--num_workers", "0", "--json", "/dev/null"]) == 0
    assert unchanged("/dev/null", before)


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "out.txt"])
def test_a_file_that_stdout_is_gets_the_report_in_its_place(tmp_path, name, monkeypatch):
    """Replacing the file would lose later output; opening it again would cut off earlier output."""
    monkeypatch.chdir(tmp_path)
    stdout = os.dup(1)
    try:
        with open("out.txt", "w") as out:
            os.dup2(out.fileno(), 1)
        os.write(1, b"before\n")
        write_json(name, [1])
        os.write(1, b"after\n")
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
    assert (tmp_path / "out.txt").read_text() == "before\n[1]\nafter\n"
    assert Path("/dev/stdout").is_symlink()


def test_a_new_folder_takes_the_place_of_nothing(odd, tmp_path):
    path, kind = odd
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    for taken in [tmp_path / "dangling", tmp_path / "file", *([] if kind == "a folder" else [path])]:
        with pytest.raises(OutputError, match="must be a new or an empty folder"):
            check_new_folder(taken)
        with pytest.raises(StagingError, match="must be a new or an empty folder"):
            stage(tmp_path, taken)
    with pytest.raises(OutputError, match=r"file is no folder"):
        check_new_folder(tmp_path / "file" / "new")
    check_new_folder(tmp_path / "new" / "deep")


def test_a_training_refuses_a_folder_with_a_pipe_among_its_files(tmp_path):
    (tmp_path / "training_args.json").write_text("{}")
    os.mkfifo(tmp_path / "metrics.json")
    with pytest.raises(UsageError, match=r"holds metrics.json, which is a named pipe: remove it"):
        check_output_dir(tmp_path)


# A process that holds a file's lock until its input ends, and its child, which lives longer.
HOLDER = """
import importlib.util, os, sys, time
from contextlib import ExitStack
from pathlib import Path
spec = importlib.util.spec_from_file_location("lock", sys.argv[1])
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
with ExitStack() as stack:
    lock.take_lock(Path(sys.argv[2]), stack, "it", ValueError)
    if os.fork() == 0:
        sys.stdout.close()
        time.sleep(10)
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_predict_into_one_output_ends_at_once_and_says_who_has_it(model, tmp_path, capsys):
    write_digit(tmp_path / "3.png", 3)
    output = tmp_path / "new" / "out.jsonl"
    output.parent.mkdir()
    line = [sys.executable, "-c", HOLDER, lock.__file__, f"{output}.lock"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        arguments = ["--model", str(tmp_path / "no-model"), str(tmp_path / "3.png"), "--output", str(output)]
        assert predict([*arguments, "--overwrite"]) == 2, "must be refused before a model is loaded"
        said = capsys.readouterr().err
        assert f"predict: --output {output} is being written by process {holder.pid} on " in said
        assert {path.name for path in output.parent.iterdir()} == {"out.jsonl.lock", "out.jsonl.lock.owner"}
        holder.kill()  # as after a kill: the lock's file stays, the lock does not
    arguments[1] = str(model)
    assert predict(arguments) == 0
    assert {path.name for path in output.parent.iterdir()} == {
        f"out.jsonl{end}" for end in ("", ".images.npz", ".meta.json")
    }


def test_a_run_that_failed_leaves_no_lock(tmp_path):
    lines = ResumableLines(tmp_path / "out.jsonl")
    lines.hold()
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl.lock", "out.jsonl.lock.owner"}
    del lines
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_the_first_of_two_writers_gets_the_folder_and_nothing_is_mixed(tmp_path, there):
    target = tmp_path / "model"
    if there:
        target.mkdir()
    with pytest.raises(OutputError, match="has been taken by something else meanwhile"), new_folder(target) as slow:
        (slow / "config.json").write_text("slow")
        with new_folder(target) as fast:
            (fast / "model.safetensors").write_text("fast")
    assert [path.name for path in target.iterdir()] == ["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_a_folder_that_could_not_be_finished_is_not_there(tmp_path, there):
    target = tmp_path / "model"
    if there:
        target.mkdir()
    with pytest.raises(ZeroDivisionError), new_folder(target) as folder:
        (folder / "config.json").write_text("half")
        raise ZeroDivisionError
    assert not target.exists() or not list(target.iterdir())
    assert not list(tmp_path.glob(".*"))
