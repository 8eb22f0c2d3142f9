"""transformers' own shared tests, for running against this package's classes.

They are not installed with transformers, but are part of the source distribution of the same version on the package
index. `load_suite("test_modeling_common")` downloads that distribution once, keeps its `tests/` in a cache folder
($VIT_CUSTOM_CACHE, else ~/.cache/vit_custom) and imports the module from there as a member of the package
`transformers_tests`, a name that no other package has. A failed download is an error, not a skip.

The distribution leaves out some modules that the shared ones import. `_stand_ins` replaces them; if a later version
ships the real module, that one is used.

    common = load_suite("test_image_processing_common")

    @explain_skips({"test_something": "why it cannot hold here"})
    class ImageProcessingTest(common.ImageProcessingTestMixin, unittest.TestCase): ...
"""

import functools
import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
import unittest
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from types import ModuleType

PACKAGE = "transformers_tests"

# Marks of the shared tests; unknown ones are an error under --strict-markers.
MARKERS = (
    "accelerate_tests",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flash_attn_test",
    "generate",
    "is_expert_parallel_test",
    "is_fsdp_test",
    "is_pipeline_test",
    "is_tensor_parallel_test",
    "is_training_test",
    "order",
    "torch_compile_test",
    "torch_export_test",
)


def register_markers(config) -> None:
    """Declare the marks of the shared tests to pytest; for `pytest_configure` in conftest.py."""
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: set by transformers' shared tests")


def load_suite(module: str) -> ModuleType:
    """Import one of transformers' shared test modules, e.g. "test_modeling_common".

    Its slow tests are switched on (RUN_SLOW=1, unless the variable is set already).

    Raises:
        RuntimeError: the source distribution of the installed version could not be fetched or read.
    """
    os.environ.setdefault("RUN_SLOW", "1")
    root = suite_root()
    if str(root) not in sys.path:
        sys.path.append(str(root))
        importlib.invalidate_caches()
    for name, attributes in _stand_ins().items():
        path = root / Path(*name.split(".")).with_suffix(".py")
        if name not in sys.modules and not path.is_file():
            stand_in = ModuleType(name, "Stands in for a module the source distribution leaves out.")
            vars(stand_in).update(attributes)
            sys.modules[name] = stand_in
    return importlib.import_module(f"{PACKAGE}.{module}")


def suite_root() -> Path:
    """Return the cached folder that holds the package `transformers_tests`; download it if it is absent."""
    import transformers

    usual = os.environ.get("VIT_CUSTOM_CACHE") or str(Path.home() / ".cache" / "vit_custom")
    cache = Path(os.environ.setdefault("TRANSFORMERS_TESTS", usual))  # also for the processes that tests start
    root = cache / f"transformers-{transformers.__version__}-tests"
    if not (root / PACKAGE / "__init__.py").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            archive = _download(transformers.__version__, Path(scratch) / "download")
            fresh = Path(scratch) / "tests"
            _unpack_tests(archive, fresh / PACKAGE)
            try:
                fresh.rename(root)  # one rename: a second process never sees half a folder
            except OSError:
                if not (root / PACKAGE / "__init__.py").is_file():
                    raise
    return root


def _download(version: str, folder: Path) -> Path:
    """Download the source distribution of transformers `version` to `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "transformers"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"transformers=={version}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(folder.glob("transformers-*.tar.gz")) if folder.is_dir() else []
    if result.returncode or len(archives) != 1:
        raise RuntimeError(
            f"The source distribution of transformers {version}, which holds its shared tests, could not be "
            f"fetched: `{' '.join(command)}` ended with {result.returncode}. Run the fast tests alone with "
            f'`pytest -m "not slow"`, or make the package index reachable.\n{result.stdout}{result.stderr}'
        )
    return archives[0]


def _unpack_tests(archive: Path, package: Path) -> None:
    """Write the Python files below `tests/` of `archive` into the folder `package`, and nothing else."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts[1:]  # without the folder transformers-X.Y.Z
            if not member.isfile() or parts[:1] != ("tests",) or not member.name.endswith(".py") or ".." in parts:
                continue
            content = tar.extractfile(member)
            assert content is not None
            target = package.joinpath(*parts[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
    if not (package / "test_modeling_common.py").is_file():
        raise RuntimeError(f"{archive.name} holds no tests/test_modeling_common.py: its layout has changed.")
    (package / "__init__.py").touch()


def _stand_ins() -> dict[str, dict]:
    """Return {module name: attributes} for modules that the shared tests import and the distribution leaves out."""
    return {
        # The export tests are not distributed; tests/test_modeling.py exports the models itself.
        f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
        # Only used to ask whether a test class inherits it; nothing here generates text.
        f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
        # Values unlike the defaults for the fields every config shares.
        f"{PACKAGE}.utils.test_configuration_utils": {
            "config_common_kwargs": {
                "architectures": ["SomeModel"],
                "chunk_size_feed_forward": 5,
                "dtype": "float16",
                "id2label": {0: "only"},
                "is_encoder_decoder": True,
                "label2id": {"only": 0},
                "output_hidden_states": True,
                "problem_type": "regression",
                "return_dict": False,
            }
        },
        # Replaces photographs that the tests would download from the Hub by an installed one.
        "fetch_hub_objects_for_ci": {"url_to_local_path": lambda url: str(_photograph())},
    }


def _photograph() -> Path:
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"


def explain_skips(reasons: Mapping[str, str]) -> Callable[[type], type]:
    """Skip the tests named in `reasons` (fnmatch patterns), each for its reason, and no others; a class decorator.

    A test that skips itself without being named fails, so that every skip is explained. A pattern that matches no test
    is
    an error. To run a test where it can run, make its entry conditional (`if not torch.cuda.is_available(): …`).
    """

    def decorate(cls: type) -> type:
        tests = list(unittest.TestLoader().getTestCaseNames(cls))
        for pattern in reasons:
            if not any(fnmatchcase(name, pattern) for name in tests):
                raise ValueError(f"{cls.__name__}: the skip {pattern!r} matches no test; remove it.")
        for name in tests:
            reason = next((why for pattern, why in reasons.items() if fnmatchcase(name, pattern)), None)
            method = getattr(cls, name)
            setattr(cls, name, _unexplained_skip_fails(method) if reason is None else _skipped(method, reason))
        return cls

    return decorate


def _skipped(method: Callable, reason: str) -> Callable:
    def skip(self):
        raise unittest.SkipTest(reason)

    skip.__name__, skip.__doc__ = method.__name__, method.__doc__
    return skip


def _unexplained_skip_fails(method: Callable) -> Callable:
    @functools.wraps(method)
    def run(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except unittest.SkipTest as skip:
            self.fail(f"skipped without an entry in the table of reasons; the test says: {skip}")

    run.__unittest_skip__ = False  # a skip by decoration happens in the call instead, where it is seen
    return run
