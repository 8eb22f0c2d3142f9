"""OUT/train.log: what a training command prints, without bars, also after an interruption; nothing publishes it."""

import logging
import re
import sys

import pytest
from real_digits import write_class_folder
from tiny_training import command

from modeling_vit_custom.commands.train import main as train_command
from modeling_vit_custom.common.model_files import TRAIN_LOG
from modeling_vit_custom.publishing.staging import plan_staging
from modeling_vit_custom.training.runs.exits import exit_code
from modeling_vit_custom.training.runs.log import keep_log, logged


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_class_folder(tmp_path_factory.mktemp("digits"), {"0": 24, "1": 24})


def run(out, digits, *flags):
    return train_command(command(out, "--train_dir", digits, "--logging_steps", 4, *flags))


@pytest.fixture(scope="module")
def course(digits, tmp_path_factory):
    """(what a run printed, what it printed when it went on, the folder)"""
    out = tmp_path_factory.mktemp("run") / "new" / "out"
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        for epochs in (4, 5, 5):
            with open(out.parent.parent / "stdout", "w+") as stream:
                patch.setattr(sys, "stdout", stream)
                assert run(out, digits, "--num_train_epochs", epochs) == 0
                stream.seek(0)
                printed.append(stream.read())
    return printed, out


def test_a_run_prints_lines_and_no_raw_dictionaries(course):
    (printed, again, _), _ = course
    assert re.search(r"^20 steps: about \d+ s, \d\.\d GB \(one empty batch was tried\)$", printed, re.MULTILINE)
    assert printed.index("20 steps: about") < printed.index("step 4/20")
    assert "{" not in printed and "step 4/20  loss " in printed and "validation at step 5/20  accuracy " in printed
    assert re.search(r"^7 steps to go: about [\d]+ s of steps", printed, re.MULTILINE)
    assert "continues at step 20 of 25" in again and "validation at step 25/25" in again and "step 4/" not in again


def test_all_that_is_printed_is_in_the_log_of_the_run(course):
    (printed, again, ended), out = course
    log = (out / TRAIN_LOG).read_text()
    heads = re.findall(r"^=== \d{4}-\d\d-\d\d \d\d:\d\d:\d\d: vit-custom train [\w.]+ (\w+) ===$", log, re.MULTILINE)
    assert heads == ["began", "continued"]
    assert all(line in log for line in (printed + again).splitlines())
    assert "which has ended" in ended and "which has ended" not in log, "nothing of an ended run is changed"


def test_the_log_is_not_published(course):
    _, out = course
    plan = plan_staging(out)
    assert TRAIN_LOG in plan.left_out and TRAIN_LOG not in plan.copied


def test_bars_are_not_in_the_log_but_warnings_are(tmp_path, capfd):
    handler = logging.StreamHandler(sys.stderr)  # as transformers', made before the command began
    logger = logging.getLogger("a.library")
    logger.addHandler(handler)
    logger.propagate = False
    with logged("train"):
        print("before the folder is known")
        keep_log(tmp_path, goes_on=False)
        for text in ("\r 10%|", "\r 20%|", "\n", "\x1b[A", "a warning\n", "\r 30%|"):
            sys.stderr.write(text)
        logger.warning("of a library")
        print("ünd 猫", "\udcff")
    logger.removeHandler(handler)
    log = (tmp_path / TRAIN_LOG).read_text(encoding="utf-8").splitlines()[1:]
    assert log == ["before the folder is known", "a warning", "of a library", "ünd 猫 \\udcff"]
    assert "30%" in capfd.readouterr().err and handler.stream is sys.stderr


def test_a_refused_folder_and_a_crash(tmp_path, digits, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("")
    assert run(tmp_path / "mine", digits) == 2 and not (tmp_path / "mine" / TRAIN_LOG).exists()

    def crash():
        keep_log(tmp_path, goes_on=False)
        raise ZeroDivisionError("unforeseen")

    with pytest.raises(ZeroDivisionError):
        exit_code("train", tuple, crash)
    assert "ZeroDivisionError: unforeseen" in (tmp_path / TRAIN_LOG).read_text()
