"""`vit-custom` and the scripts: every command in the table exists and starts from any folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import pytest
from flag_table import flag_table

from modeling_vit_custom import __version__
from modeling_vit_custom.cli import ALIASES, COMMANDS, FLAGS_FILE, main, translated
from modeling_vit_custom.common.errors import UsageError
from modeling_vit_custom.training.arguments.tables import ONLY_IN_TRAIN, REFUSED

ROOT = Path(__file__).parents[2]
CLI = "from vit_custom import main as vit_custom"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0 and "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_usage_lists_the_commands(arguments, capsys):
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["trian"], 2, "no command 'trian', did you mean train?"),
        (["zzz"], 2, "no command 'zzz'"),
        (["--version"], 0, f"vit-custom {__version__}"),
        (["train", "--epoch", "5"], 2, "train: no flag --epoch: did you mean --num_train_epochs?"),
        (["train", "--train-dri=photos"], 2, "train: no flag --train-dri: did you mean --train_dir?"),
        (["train", "--learning", "1"], 2, "train: no flag --learning"),  # no abbreviations
        (["predict", "--modle", "x"], 2, "predict: no flag --modle: did you mean --model?"),
        (["audit-data", "--htlm", "x"], 2, "audit_data: no flag --htlm: did you mean --html?"),
        (["verify", "--qqq"], 2, "verify: no flag --qqq: vit-custom verify --help shows them."),
        (["benchmark", "few", "--imagse", "3"], 2, "benchmark: no flag --imagse: did you mean --images?"),
    ],
)
def test_a_slip_is_answered_before_a_library_is_loaded(words, code, said, tmp_path):
    """The command runs in its own process through the console command's module, and may not import a heavy library."""
    watched = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
sys.argv = ["vit-custom", *{words!r}]
import vit_custom
code = vit_custom.main()
loaded = {{"torch", "transformers", "numpy", "modeling_vit_custom"}} & sys.modules.keys()
print("loaded:", sorted(loaded))
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", watched], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code and said in done.stdout + done.stderr
    assert "loaded: []" in done.stdout and "Traceback" not in done.stderr
    assert len((done.stdout + done.stderr).splitlines()) <= 2 or words == ["zzz"]


def test_the_table_of_flags_is_that_of_the_parsers():
    """If this fails, `python tests/support/flag_table.py` writes the table again."""
    assert json.loads(FLAGS_FILE.read_text()) == flag_table()


def test_short_words_and_hyphens_stand_for_flags():
    table = json.loads(FLAGS_FILE.read_text())
    for command, aliases in ALIASES.items():
        assert set(aliases.values()) <= set(table[command]) and not aliases.keys() & set(table[command])
    words = ["--lr", "-1", "--train-dir=a-b", "auto", "--epochs", "3", "--", "--data", "x"]
    assert translated("train", words) == [
        "--learning_rate", "-1", "--train_dir=a-b", "auto", "--num_train_epochs", "3", "--", "--train_dir", "x",
    ]  # fmt: skip
    assert translated("evaluate", ["--data", "d", "--on-error", "skip"]) == ["--data_dir", "d", "--on_error", "skip"]
    assert translated("quickstart", ["--disable-tqdm", "true"]) == ["--disable_tqdm", "true"]  # passed to train


@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_help_shows_what_most_need_and_help_all_the_rest(command, capsys):
    shown = {}
    for word in ("--help", "--help_all"):
        with pytest.raises(SystemExit):
            main([command, word])
        printed = capsys.readouterr().out
        shown[word] = set(re.findall(r"^  --(\w+)", printed, re.MULTILINE)) - {"help_all"}
        assert "python scripts" not in printed and f"vit-custom {command}" in printed
        assert "exit codes" in printed or command == "pretrain"
    assert len(shown["--help"]) <= 60 and shown["--help"] < shown["--help_all"]
    assert not shown["--help_all"] & set(REFUSED)
    everything = {name for name in json.loads(FLAGS_FILE.read_text())[command] if not name.startswith("no_")}
    hidden = everything - shown["--help_all"] - set(REFUSED) - {"help", "help_all", "recipe"}
    assert hidden <= ({*ONLY_IN_TRAIN} if command == "pretrain" else set()) | {
        "train_file",
        "validation_file",
        "test_file",
    }


@pytest.mark.parametrize("command", ["train", "pretrain", "predict", "evaluate", "export"])
def test_ctrl_c_is_a_sentence_and_130(command, tmp_path, monkeypatch, capsys):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    module, out = import_module(f"modeling_vit_custom.commands.{command}"), tmp_path / "o"
    training = ["--output_dir", str(out), "--train_dir", "d", "--variant", "nano/4", "--use_cpu", "true"]
    flags = {
        "predict": ["--model", "m", "x.png", "--output", str(out)],
        "evaluate": ["--model", "m", "--data_dir", "d"],
        "export": ["--model", "m", "--output", str(out)],
    }.get(command, training)
    monkeypatch.setattr(module, command, stop)
    assert main([command, *flags]) == 130
    assert capsys.readouterr().err.startswith(f"{command}: stopped; ")
    if flags is training:
        (out / "checkpoint-9").mkdir(parents=True)
        (out / "checkpoint-21").mkdir()
        assert main([command, *flags]) == 130
        assert f"{out / 'checkpoint-21'} is kept, and the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_while_a_command_is_loaded_or_works_ends_each_alike(command, monkeypatch, capsys):
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    for loaded in (stop, lambda _: SimpleNamespace(main=stop)):
        monkeypatch.setattr("modeling_vit_custom.cli.import_module", loaded)
        assert main([command]) == 130
        assert capsys.readouterr().err == f"{command}: stopped.\n"


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """Restore SIGINT for this test: a process that a shell starts behind `&` ignores it, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_ctrl_c")
@pytest.mark.parametrize("begun", ["vit_custom.py", "scripts/predict.py", "scripts/train.py"])
def test_ctrl_c_within_the_first_second(begun, tmp_path):
    """Command and script, while they load torch, print one sentence and exit with 130, without a traceback."""
    command = Path(begun).stem.replace("vit_custom", "verify")
    words = {"train": ["--output_dir", "o"], "predict": ["--model", "m", "x.png"], "verify": ["verify", "m"]}[command]
    line = [sys.executable, str(ROOT / begun), *words]
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, cwd=tmp_path, env=environment, start_new_session=True, **pipes) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        if maps.exists():
            while process.poll() is None and "libtorch" not in maps.read_text():
                time.sleep(0.02)
        else:
            time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert printed.endswith(f"{command}: stopped.\n") and "Traceback" not in printed


@pytest.mark.usefixtures("hears_ctrl_c")
def test_a_ctrl_c_that_python_drops_is_repeated(monkeypatch, capsys):
    """Python prints and drops an exception that is raised inside a `__del__`: the command would continue."""

    class Dropping:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    def work(_: object) -> int:
        Dropping()
        time.sleep(20)
        return 0

    monkeypatch.setattr("modeling_vit_custom.cli.import_module", lambda _: SimpleNamespace(main=work))
    before, began = sys.unraisablehook, time.monotonic()
    assert main(["verify", "m"]) == 130 and time.monotonic() - began < 10
    assert capsys.readouterr().err == "verify: stopped.\n" and sys.unraisablehook is before


# Commands whose arguments are given twice, by position and by flag, or not at all: (words, message).
TWICE = [
    (["publish"], "--model is missing: name one"),
    (["publish", "m"], "--repo_id is missing: name one"),
    (["publish", "--repo_id", "a/b"], "--model is missing"),
    (["publish", "m", "a/b", "--model", "n"], "--model is given twice, n and m: give it once"),
    (["publish", "m", "a/b", "--repo_id", "c/d"], "--repo_id is given twice, c/d and a/b"),
    (["verify"], "--model is missing"),
    (["verify", "m", "--model", "m"], "--model is given twice, m and m"),
    (["convert"], "--model is missing"),
    (["convert", "m"], "--output is missing"),
    (["convert", "--output", "o"], "--model is missing"),
    (["convert", "m", "--model", "n", "--output", "o"], "--model is given twice, n and m"),
    (["convert", "m", "o", "--output", "p"], "--output is given twice, p and o"),
]


@pytest.mark.parametrize(("words", "said"), TWICE, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_what_is_named_both_ways_or_not_at_all_is_a_sentence(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as done:
        code = done.code
    assert code == 2 and said in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("publish", {"model": "m", "model_dir": None, "repo_id": "a/b"}),
        ("publish", {"model": None, "model_dir": "m", "repo_id": "a/b"}),
        ("verify", {"model": "m", "source": None}),
        ("verify", {"model": None, "source": "m"}),
        ("convert", {"model": "m", "source": None, "output": "o"}),
        ("convert", {"model": None, "source": "m", "output": "o"}),
    ],
)
def test_flags_and_words_without_them_say_the_same_in_any_order(command, given, monkeypatch):
    """Python 3.11's argparse takes a positional argument as missing if a flag stands before it."""
    taken: list[dict] = []
    module = import_module(f"modeling_vit_custom.commands.{command}")
    monkeypatch.setattr(module, command, lambda **flags: taken.append(flags) or (_ for _ in ()).throw(UsageError("")))
    other = {"publish": ["--license", "mit"], "verify": ["--trust_remote_code"], "convert": ["--check"]}[command]
    places = [value for name, value in given.items() if value and (name != "model" and not given["model"])]
    flags = [word for name, value in given.items() if value and given["model"] for word in (f"--{name}", value)]
    for words in ([*other, *places, *flags], [*places, *flags, *other], [*places[:1], *other, *places[1:], *flags]):
        assert main([command, *words]) == 2
        assert given.items() <= taken.pop().items()


SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_thin_and_hand_their_words_to_their_command(script, monkeypatch):
    """Each script imports only sys, Path and the command line, and passes its arguments to its command."""
    text = script.read_text()
    assert len(text.splitlines()) <= 60
    imported = [line.strip() for line in text.splitlines() if re.match(r"\s*(from|import)\s", line)]
    assert set(imported) <= {"import sys", "from pathlib import Path", CLI} and CLI in imported
    given = []
    monkeypatch.setattr("vit_custom.main", lambda words: given.append(words) or 7)
    assert run_path(str(script))["main"](["--a", "b"]) == 7 and given == [[script.stem, "--a", "b"]]


def test_every_command_has_its_script():
    assert {path.stem for path in SCRIPTS} == set(COMMANDS)


@pytest.mark.parametrize("script", ["evaluate.py", "train.py"])
def test_scripts_start_from_anywhere(script, tmp_path):
    """`python scripts/x.py` puts scripts/ on the path, where evaluate.py would hide the library `evaluate`."""
    path = ROOT / "scripts" / script
    command = [sys.executable, str(path), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
