"""The fresh process runs without this package, without tokens and caches, and returns its errors."""

from pathlib import Path

import pytest
from fresh_process import run_without_package

from modeling_vit_custom.common.fresh_process import FreshProcessError, check_hidden, run_fresh

ROOT = str(Path(__file__).parents[2])


def test_the_package_is_hidden_even_where_it_is_on_the_path(tmp_path):
    with pytest.raises(SystemExit, match="can be imported"):
        check_hidden()  # here the package is importable, and the check must say so
    code = f"sys.path.insert(0, {ROOT!r})\nimport json\nimport modeling_vit_custom.cli"
    with pytest.raises(FreshProcessError, match="modeling_vit_custom is hidden in this process"):
        run_without_package(code, tmp_path)


def test_nothing_of_the_user_goes_along(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a token")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a key")
    code = "import os\nprint(os.listdir('.'), os.listdir(os.environ['HOME']), sorted(os.environ), sys.argv[1:])"
    printed = run_without_package(code, tmp_path, "one", Path("two"))
    assert printed.startswith("[] [] ") and "['one', 'two']" in printed
    assert "HF_HUB_OFFLINE" in printed and "TOKEN" not in printed and "AWS" not in printed


def test_a_script_that_fails_or_hangs(tmp_path):
    with pytest.raises(FreshProcessError, match="ended with exit code 3"):
        run_without_package("sys.exit(3)", tmp_path)
    hanging = tmp_path / "hang.py"
    hanging.write_text("import time\ntime.sleep(60)")
    with pytest.raises(FreshProcessError, match=r"hang\.py took longer than 1 s"):
        run_fresh(hanging, timeout=1)
