"""Code is kept where nobody else can write, and code that others could have changed is not run."""

import os
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from real_digits import write_class_folder
from saved_models import save_ours
from tiny_training import tiny_trainer

from modeling_vit_custom.common import cache_folders
from modeling_vit_custom.common.cache_folders import (
    COMPILERS,
    cache_root,
    find_fault,
    keep_compiled_code_private,
    make_folders,
    private_folder,
    processor_key,
    tighten,
)
from modeling_vit_custom.common.json_files import write_json
from modeling_vit_custom.engines.fastest import CHOICE, EngineConfig, cache_folder, fastest
from modeling_vit_custom.engines.registry import ENGINES, Engine, build_engine, kept
from modeling_vit_custom.inference.loading import load_classifier

ROOT = os.geteuid() == 0
STRANGER = 4242


def write_shared(path: Path) -> None:
    path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IWGRP)


def write_for_all(path: Path) -> None:
    path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IWOTH)


def link_out(path: Path) -> None:
    elsewhere = path.rename(path.with_name(f"{path.name}-elsewhere"))
    path.symlink_to(elsewhere)


def give_away(path: Path) -> None:
    os.chown(path, STRANGER, -1)


# Only root can make a file of another user; any user can do the other changes.
WAYS = {
    "the group writes": (write_shared, "can be written by others"),
    "everybody writes": (write_for_all, "can be written by others"),
    "a link": (link_out, "is a link"),
    **({"another user's": (give_away, f"belongs to user {STRANGER}, not to 0")} if ROOT else {}),
}


@pytest.fixture(params=WAYS.values(), ids=WAYS.keys())
def way(request):
    """Return (the change to a path, the words of its warning)."""
    return request.param


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Make an empty home; caches shall lie in `cache` beside it."""
    (tmp_path / "home").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VIT_CUSTOM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "home"


def filled(folder: Path) -> Path:
    """Put two files of code into `folder`."""
    make_folders(folder / "aoti-4")
    for path in (folder / "choice.json", folder / "aoti-4" / "model.pt2"):
        path.write_text("ours")
    tighten(folder)
    return folder


def test_folders_are_private_whatever_the_umask(home):
    before = os.umask(0)
    try:
        folder = private_folder("engines", "abc")
        make_folders(folder)
        (folder / "model.pt2").write_text("code")
        assert "model.pt2 can be written by others (mode 0666; chmod go-w)" in str(find_fault(folder))
        tighten(folder)
    finally:
        os.umask(before)
    assert folder == cache_root("engines") / "abc" == home.parent / "cache" / "engines" / "abc"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (*folder.parents[1::-1], folder, folder / "model.pt2")]
    assert modes == [0o700, 0o700, 0o700, 0o600] and find_fault(folder) is None


@pytest.mark.parametrize("name", [".", "choice.json", "aoti-4", "aoti-4/model.pt2"])
def test_what_others_could_have_changed_is_removed(home, way, caplog, name):
    spoil, said = way
    folder = filled(private_folder("engines", "abc"))
    assert private_folder("engines", "abc") == folder and (folder / name).exists() and not caplog.text
    spoil(folder / name)
    assert private_folder("engines", "abc") == folder and not os.path.lexists(folder)
    assert said in caplog.text and f"{folder} is removed, and what it held is made again" in caplog.text


@pytest.mark.parametrize("part", ["cache", "cache/engines"])
def test_code_is_not_kept_in_a_shared_root(home, way, caplog, part):
    spoil, said = way
    folder = filled(private_folder("engines", "abc"))
    spoil(home.parent / part)
    other = private_folder("engines", "abc")
    if spoil is link_out and part == "cache":  # the target of the user's own link is as private as before
        assert other == folder.resolve() and find_fault(other) is None
    else:
        assert other == home / ".cache" / "vit_custom" / "engines" / "abc" and said in caplog.text
        assert f"Compiled code is kept in {other.parent} instead" in caplog.text and find_fault(other) is None


def test_a_home_that_the_group_writes_keeps_no_code(home, monkeypatch, caplog):
    monkeypatch.delenv("VIT_CUSTOM_CACHE")
    home.chmod(0o770)
    folder = filled(private_folder("engines", "abc"))
    assert home not in folder.parents and find_fault(folder) is None
    assert f"{home} can be written by others (mode 0770; chmod go-w). Compiled code is not kept" in caplog.text
    home.chmod(0o1770)  # sticky: nobody else can rename our folders
    assert home in private_folder("engines", "abc").parents


def test_a_folder_that_cannot_be_made_is_passed_over(home, monkeypatch, caplog):
    (home.parent / "cache").write_text("a file")
    assert home in private_folder("engines", "abc").parents
    shutil.rmtree(home)
    home.write_text("a file")
    folder = private_folder("engines", "other")
    assert not folder.exists() and folder.parent.is_dir() and find_fault(folder) is None
    assert "Compiled code is not kept" in caplog.text


def test_a_temporary_folder_is_removed_at_the_end(home):
    home.chmod(0o770)
    (home.parent / "cache").write_text("a file")
    script = "from cache_folders import private_folder; print(private_folder('engines', 'a').parent)"
    line = [sys.executable, "-c", script]  # only the module: it needs neither torch nor the package
    environment = {**os.environ, "PYTHONPATH": str(Path(cache_folders.__file__).parent)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    assert "vit-custom-" in done.stdout and not Path(done.stdout.strip()).exists()


# ---------- compilers' own caches


@pytest.fixture
def compilers(home, monkeypatch):
    for variable in COMPILERS:
        monkeypatch.delenv(variable)
    return home.parent / "cache" / "compiled"


def own(folder: Path) -> Path:
    return folder / processor_key()


def test_compilers_keep_their_files_in_ours(compilers, way, caplog):
    keep_compiled_code_private()
    named = {variable: Path(os.environ[variable]) for variable in COMPILERS}
    assert named == {variable: own(compilers / name) for variable, name in COMPILERS.items()}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in named.values())
    inductor = own(compilers / "inductor")
    (inductor / "ab").mkdir()
    (inductor / "ab" / "code.so").write_text("x")
    (inductor / "ab" / "code.so").chmod(0o664)  # as by umask 002: nobody else can reach it
    keep_compiled_code_private()
    assert (inductor / "ab" / "code.so").exists() and not caplog.text
    spoil, said = way
    spoil(compilers / "inductor")
    keep_compiled_code_private()
    assert not list(inductor.iterdir()) and said in caplog.text
    assert stat.S_IMODE((compilers / "inductor").lstat().st_mode) == 0o700


def test_a_folder_named_by_the_user_is_used_if_it_is_private(compilers, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "own"))
    for _ in range(2):  # the second time as in a child process, which inherits the variable
        keep_compiled_code_private()
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(own(tmp_path / "own"))
    assert find_fault(tmp_path / "own") is None
    (tmp_path / "own").chmod(0o777)
    keep_compiled_code_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(own(compilers / "inductor"))
    assert f"TORCHINDUCTOR_CACHE_DIR={tmp_path / 'own'} is not used: {tmp_path / 'own'} can be written" in caplog.text


def test_torchs_default_below_tmp_is_replaced(compilers, monkeypatch):
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())  # as torch itself sets it
    keep_compiled_code_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(own(compilers / "inductor"))


FLEX = """
import torch
from torch.nn.attention.flex_attention import flex_attention
from modeling_vit_custom.common.cache_folders import keep_compiled_code_private
keep_compiled_code_private()
torch.manual_seed(0)
query, key, value = torch.randn(3, 2, 4, 13, 8)
with torch.no_grad():
    actual = torch.compile(flex_attention)(query, key, value, scale=0.3)
expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=0.3)
print(torch.backends.cpu.get_cpu_capability(), float((actual - expected).abs().max()))
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="needs AVX-512 and AVX2")
def test_what_was_compiled_for_other_vectors_is_not_found(compilers, tmp_path):
    """torch finds a graph compiled for AVX2 again under AVX-512, and then writes zeros over half of the scores."""
    for capability in ("avx2", "avx512"):
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "VIT_CUSTOM_CACHE": str(tmp_path / "cache")}
        printed = subprocess.run(
            [sys.executable, "-c", FLEX], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        assert printed[-2] == capability.upper() and float(printed[-1]) < 1e-6


@pytest.mark.parametrize("engine", ["compiled", "graphs", "aoti"])
def test_every_engine_that_compiles_asks_for_it(compilers, tmp_path, engine):
    filled(tmp_path / "files").chmod(0o770)  # aoti stops there, before it compiles
    with suppress(PermissionError):
        ENGINES[engine].build(torch.nn.Linear(3, 1), torch.zeros(2, 3), tmp_path / "files")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(own(compilers / "inductor"))


def test_a_compiled_training_asks_for_it(compilers, tmp_path):
    images = write_class_folder(tmp_path / "digits", {"0": 4, "1": 4})
    tiny_trainer(tmp_path / "o", "--train_dir", images, "--torch_compile", "true")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(own(compilers / "inductor"))


# ---------- the files of engines


@pytest.mark.parametrize("engine", ["aoti", "onnx", "openvino"])
def test_no_engine_opens_a_file_that_others_could_have_changed(compilers, tmp_path, way, engine):
    folder = filled(tmp_path / "files") / "aoti-4"
    way[0](folder)
    with pytest.raises(PermissionError, match=way[1]):
        build_engine(engine, torch.nn.Linear(3, 1), torch.zeros(2, 3), folder)


def from_file(model, images, folder):
    """Build an engine whose file is code, as AOTInductor's is, in a language that needs no compiler."""
    exec(kept(folder / "model.py", model, images, lambda _, path: path.write_text("")).read_text())
    return model


def test_predict_runs_no_code_of_others(home, tmp_path, monkeypatch, capsys, caplog):
    model, processor = load_classifier(str(save_ours(tmp_path / "model")))
    images = torch.zeros(4, 1, 24, 32)
    monkeypatch.setitem(ENGINES, "file", Engine(from_file))
    folder = cache_folder(model, processor, 4)
    code = make_folders(folder / "file-4") / "model.py"
    code.write_text("print('this code was run')")
    choice = {"way": asdict(EngineConfig("file", 4)), "gain": 2, "engines": ["file"], "enough_for": None}
    write_json(folder / CHOICE, choice)
    tighten(folder)
    assert "chosen before" in fastest(model, processor, images, 0, engines=["file"])[1]
    assert "this code was run" in capsys.readouterr().out, "a file that only this user can write is used"
    write_shared(code)
    found, said = fastest(model, processor, images, 0, engines=["file"])
    assert "this code was run" not in capsys.readouterr().out and "can be written by others" in caplog.text
    assert found is model and "chosen before" not in said and not folder.exists()


def test_what_is_chosen_is_kept_private(home, tmp_path):
    model, processor = load_classifier(str(save_ours(tmp_path / "model")))
    before = os.umask(0o002)
    try:
        fastest(model, processor, torch.zeros(4, 1, 24, 32), 10**9, engines=["eager"])
    finally:
        os.umask(before)
    assert "chosen before" in fastest(model, processor, torch.zeros(4, 1, 24, 32), 10**9, engines=["eager"])[1]
