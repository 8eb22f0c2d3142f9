"""A folder is written whole or not at all."""

import pytest

from modeling_vit_custom.common.outputs import new_folder


def fill(output):
    with new_folder(output) as folder:
        (folder / "config.json").write_text("{}")
        (folder / "model").write_text("weights")
        assert not output.exists() or not any(output.iterdir())


@pytest.mark.parametrize("kind", ["new", "below a new one", "empty", "a link to an empty one"])
def test_it_takes_the_place_of_what_was_named(tmp_path, kind):
    output = tmp_path / "a" / "out" if kind == "below a new one" else tmp_path / "out"
    if kind == "empty":
        output.mkdir()
    elif kind == "a link to an empty one":
        (tmp_path / "target").mkdir()
        output.symlink_to(tmp_path / "target")
    fill(output)
    assert sorted(path.name for path in output.iterdir()) == ["config.json", "model"]
    assert output.is_symlink() == (kind == "a link to an empty one")
    assert {path.name for path in tmp_path.iterdir()} <= {"a", "out", "target"}
    (tmp_path / "plain").mkdir()
    assert output.stat().st_mode == (tmp_path / "plain").stat().st_mode, "must have the mode of any other folder"


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="no"), new_folder(tmp_path / "out") as folder:
        (folder / "model").write_text("half")
        raise RuntimeError("no")
    assert not list(tmp_path.iterdir())
