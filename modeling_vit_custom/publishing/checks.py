"""Checks of a model's folder that work offline: first without running any of its code, then in a fresh process.

Each check is a function that returns what it looked at, or raises ValueError that says what is wrong and how to fix it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import ModelCard
from safetensors import safe_open

from ..common.claims import check_claims
from ..common.json_files import read_json
from ..common.model_files import CARD, CONFIG, GOLDEN, PROCESSOR, WEIGHTS_INDEX
from ..configuration_vit_custom import ViTCustomConfig
from ..image_files_vit_custom import file_header
from ..image_processing_vit_custom import ViTCustomImageProcessorPil
from ..tasks.hub import CLASSIFICATION, listing_of
from ..weight_files_vit_custom import check_shapes, read_headers, shorten_list
from .code_files import VERSION, foreign_code, parse_reference, reached_modules, read_configs
from .forms import CUSTOM, HF, TIMM, form_in, labels_for, listing_for
from .golden import GoldenError, compare_golden, measure, read_golden
from .library_checks import (
    hf_configuration,
    hf_processor,
    hf_weights_fit,
    no_code,
    timm_configuration,
    timm_preparation,
    timm_weights_fit,
)
from .report import Check
from .secrets import scan_secrets
from .staging import is_pickle, read_index, weight_files

MAX_CARD_BYTES = 1024**2
# First bytes of files that a careless reader would execute or unpack, whatever their names.
MAGIC = {b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip archive", b"\x93NUMPY": "a numpy file"} | {
    bytes([0x80, protocol]): "a pickle" for protocol in range(2, 6)
}
FLOATS = {"F64", "F32", "F16", "BF16"}
_PLACEHOLDER = re.compile(r"LABEL_\d+")


def check_folder(folder: Path, trust_remote_code: bool = False) -> list[Check]:
    """Return all offline checks of a folder; golden images are checked if it has golden.json.

    The folder's code runs only after all checks without code have passed, and only if it is byte-identical to this
    package's or `trust_remote_code` is set.
    """
    return list(iterate_checks(folder, trust_remote_code))


def iterate_checks(folder: Path, trust_remote_code: bool = False) -> Iterator[Check]:
    """Yield the checks of `check_folder`, each as soon as it is done."""
    folder = Path(folder)
    failed: list[str] = []
    for name, check, needs in _TABLES[form_in(folder).name]:
        if unmet := [need for need in needs if need in failed]:
            result = Check(name, False, f"not run: {unmet[0]!r} has failed")
        else:
            result = _static_check(name, check, folder)
        if not result.passed:
            failed.append(name)
        yield result
    yield from _code_checks(folder, trust_remote_code, failed)


def _static_check(name: str, check: Callable[[Path], str], folder: Path) -> Check:
    try:
        return Check(name, True, check(folder))
    except Exception as error:  # a hostile file may raise anything
        return Check(name, False, " ".join(str(error).split()) or type(error).__name__)


def _code_checks(folder: Path, trust_remote_code: bool, failed: list[str]) -> Iterator[Check]:
    """The check whether the folder's code may run; if so, the checks that run it."""
    if failed:
        yield Check("fresh process", False, f"not run: {failed[0]!r} has failed")
        return
    if not form_in(folder).has_code:
        yield from fresh_checks(folder)
        return
    foreign = foreign_code(folder)
    if foreign and not trust_remote_code:
        why = f"{shorten_list(foreign)} differ from the modules of {VERSION}. Read them, then pass --trust_remote_code"
        yield Check("code", False, f"not run: {why}")
        return
    yield Check(
        "code", True, f"customised and trusted: {shorten_list(foreign)}" if foreign else f"identical to {VERSION}"
    )
    yield from fresh_checks(folder)


def fresh_checks(folder: Path) -> Iterator[Check]:
    """Yield the checks of strict loading, of the named classes and, with golden.json, of golden images.

    RUNS THE CODE OF THE FOLDER, if it has any, in one process.
    """
    form, golden = form_in(folder), None
    if (folder / GOLDEN).exists():
        try:
            golden = read_golden(folder)
        except GoldenError as error:
            yield Check("golden images", False, str(error))
    report = measure(folder, golden["images"] if golden else ())
    yield _load_check(report["load"])
    classes = report["classes"]
    if isinstance(classes, dict):
        yield Check("classes in a fresh process", False, classes["error"])
    else:
        entries = f"all {len(classes)} entries of auto_map and custom_pipelines"
        own = f"of {form.library} itself, without remote code: {' and '.join(classes)}"
        yield Check("classes in a fresh process", True, entries if form.has_code else own)
    if golden is not None:
        yield from compare_golden(golden, report)


def _load_check(load: dict[str, Any]) -> Check:
    name = "strict load in a fresh process"
    if "error" in load:
        return Check(name, False, load["error"])
    if wrong := {kind: keys for kind, keys in load.items() if keys}:
        return Check(name, False, "; ".join(f"{kind}: {shorten_list(keys)}" for kind, keys in wrong.items()))
    return Check(name, True, "no missing, unexpected or mismatched key, without this package, offline")


# ---------- checks that run no code of the folder


def required_files(folder: Path) -> str:
    paths = sorted(folder.rglob("*"))
    names = {path: path.relative_to(folder).as_posix() for path in paths}
    if links := [names[path] for path in paths if path.is_symlink()]:
        raise ValueError(f"{shorten_list(links)}: a link; put the file itself there.")
    if missing := [name for name in form_in(folder).configs if not (folder / name).is_file()]:
        raise ValueError(f"{' and '.join(missing)} missing: save model and processor with save_pretrained.")
    files = [path for path in paths if path.is_file()]
    weight_files(folder)
    for path in files:
        if path.suffix == ".json":
            read_json(path)
    return f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB"


def no_pickles(folder: Path) -> str:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if is_pickle(name):
            raise ValueError(f"{name} is not safetensors: reading it can run code. Remove it.")
        if path.suffix == ".npy" and file_header(path) is not None:  # file_header refuses pickled objects
            continue
        if kind := magic_of(path):
            raise ValueError(f"{name} is {kind}, whatever its name says: reading it can run code. Remove it.")
    return "no file that runs code when read, by name or by content"


def magic_of(path: Path) -> str | None:
    """Return the kind of a file by its first bytes, if a careless reader would execute or unpack it, else None."""
    with open(path, "rb") as file:
        start = file.read(8)
    return next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), None)


def configuration(folder: Path) -> str:
    config = _load_config(folder)
    return f"{config.num_labels} labels, {config.image_hw[0]}x{config.image_hw[1]} px, {config.num_channels} channels"


def _load_config(folder: Path) -> Any:
    stored, _ = read_configs(folder)
    if stored.get("model_type") != ViTCustomConfig.model_type:
        raise ValueError(f"config.json: model_type is {stored.get('model_type')!r}, not 'vit_custom'.")
    return ViTCustomConfig.from_dict(stored)


def auto_map(folder: Path) -> str:
    config, processor = read_configs(folder)
    modules, task = reached_modules(folder, config, processor), listing_of(config)
    for name, file, table in (
        ("AutoConfig", CONFIG, config),
        (task.auto, CONFIG, config),
        ("AutoImageProcessor", PROCESSOR, processor),
    ):
        if name not in (table.get("auto_map") or {}):
            raise ValueError(f"{file}: auto_map has no {name}, so that class finds no code. Save it again.")
    target = config["auto_map"][task.auto]
    _, class_name = parse_reference(f"config.json auto_map[{task.auto!r}]", target)
    if config.get("architectures") != [class_name]:
        what = "the classifier" if task is CLASSIFICATION else "the encoder (there are no labels)"
        raise ValueError(
            f"config.json: architectures is {config.get('architectures')}, {task.auto} is {target}: publish {what}, "
            "not another class of the model."
        )
    for task, entry in (config.get("custom_pipelines") or {}).items():
        _check_pipeline_entry(task, entry)
    return f"every entry leads to a class in one of {len(modules)} modules here"


def _check_pipeline_entry(task: str, entry: Any) -> None:
    models = entry.get("pt") if isinstance(entry, dict) else None
    if not isinstance(models, list) or not models or not all(hasattr(transformers, str(name)) for name in models):
        raise ValueError(
            f"config.json: custom_pipelines[{task!r}] must hold impl and pt, a list of transformers' Auto classes, "
            f"not {entry!r}."
        )


def weight_headers(folder: Path) -> str:
    names = [name for name in weight_files(folder) if name.endswith(".safetensors")]
    header = read_headers([folder / name for name in names])
    for name in names:
        with safe_open(folder / name, framework="pt") as file:
            if (written := (file.metadata() or {}).get("format")) != "pt":
                raise ValueError(
                    f"{name}: its metadata say format={written!r}, not 'pt': save it with save_pretrained."
                )
            tensors = set(file.keys())
        if (folder / WEIGHTS_INDEX).is_file():
            promised = {tensor for tensor, shard in read_index(folder).items() if shard == name}
            if tensors != promised:
                raise ValueError(
                    f"{WEIGHTS_INDEX} disagrees with {name} on {shorten_list(sorted(tensors ^ promised))}."
                )
    return f"{len(header)} tensors in {len(names)} file(s)"


def weights_fit(folder: Path) -> str:
    """Check that the stored tensors have a float type and the model's own names and shapes.

    The model is built without any memory, on the meta device. Customised code is left to its own strict load.
    """
    header = _headers(folder)
    if odd := sorted(name for name, (dtype, _) in header.items() if dtype not in FLOATS):
        raise ValueError(
            f"{shorten_list(odd)}: {header[odd[0]][0]} is no type of a weight. Save the model in a float type."
        )
    if foreign_code(folder):
        return "customised code: its own strict load compares names and shapes"
    with torch.device("meta"):
        model = listing_of(read_configs(folder)[0]).model(_load_config(folder))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_shapes(header, expected)
    return f"{sum(tensor.numel() for tensor in model.parameters()):,} parameters, names and shapes as in the model"


def _headers(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    return read_headers([folder / name for name in weight_files(folder) if name.endswith(".safetensors")])


def weights_finite(folder: Path) -> str:
    broken, count = [], 0
    for name in weight_files(folder):
        if name.endswith(".safetensors"):
            with safe_open(folder / name, framework="pt") as file:
                for tensor in file.keys():  # noqa: SIM118 - no dict
                    count += 1
                    if not torch.isfinite(file.get_tensor(tensor)).all():
                        broken.append(tensor)
    if broken:
        raise ValueError(
            f"NaN or infinity in {shorten_list(sorted(broken))}: the training has diverged; do not publish it."
        )
    return f"all {count} tensors"


def labels(folder: Path) -> str:
    """Check that each name belongs to one class; the configuration itself checks ids and characters."""
    fields = read_configs(folder)[0]
    id2label = _load_config(folder).id2label if form_in(folder).has_code else labels_for(fields)
    if not id2label and listing_for(fields) is not CLASSIFICATION:
        return "none: an encoder"
    if twice := [name for name, count in Counter(id2label.values()).items() if count > 1]:
        raise ValueError(f"id2label gives {shorten_list(twice)} to several classes: name each differently.")
    if placeholders := [name for name in id2label.values() if _PLACEHOLDER.fullmatch(name)]:
        return f"WARNING: {shorten_list(placeholders)} say nothing; name the classes in config.json"
    return f"{len(id2label)} different names"


def image_processor(folder: Path) -> str:
    config: Any = _load_config(folder)
    processor: Any = ViTCustomImageProcessorPil.from_dict(read_configs(folder)[1])
    if processor.num_channels != config.num_channels:
        raise ValueError(
            f"preprocessor_config.json: num_channels is {processor.num_channels}, the model's {config.num_channels}."
        )
    key = "crop_size" if processor.do_center_crop else "size" if processor.do_resize else None
    made = dict(getattr(processor, key)) if key else None
    height, width = config.image_hw
    if made != {"height": height, "width": width}:
        raise ValueError(
            f"preprocessor_config.json: {key or 'do_resize=False'} gives {made or 'any size'}, the model takes "
            f"{height}x{width}: make it with ViTCustomImageProcessor.for_model(config)."
        )
    return f"{height}x{width} px, {config.num_channels} channels, as the model takes"


def model_card(folder: Path) -> str:
    path = folder / CARD
    if not path.exists():
        return "there is no README.md"
    if path.stat().st_size > MAX_CARD_BYTES:
        raise ValueError(f"README.md has {path.stat().st_size:,} bytes, more than {MAX_CARD_BYTES:,}.")
    try:
        data = ModelCard(path.read_text(encoding="utf-8")).data
    except Exception as error:  # YAMLError is not a ValueError
        raise ValueError(f"README.md: the front matter cannot be read: {error}") from error
    tag, library = listing_for(read_configs(folder)[0]).name, form_in(folder).library
    for name, value in {"library_name": library, "pipeline_tag": tag}.items():
        if data.get(name) != value:
            raise ValueError(f"README.md: {name} is {data.get(name)!r}; pipeline(model=…) needs {value!r}.")
    if not data.get("license"):
        raise ValueError("README.md: there is no license; nobody may use a model without one.")
    return f"library_name, pipeline_tag, license {data.get('license')}"


def records(folder: Path) -> str:
    """Check that all records of how the model was made or measured belong to these weights."""
    held, unnamed = check_claims(folder)
    if unnamed:
        return f"WARNING: these name no weights: {shorten_list(unnamed)} (of an earlier version?)"
    return f"{shorten_list(held)}: of these weights" if held else "there are none"


def no_secrets(folder: Path) -> str:
    if findings := scan_secrets(folder):
        raise ValueError(f"{shorten_list(findings)}. Remove it; a token that was published has to be revoked.")
    return "no token, key, password, address, name, position or path of one's own found"


# name, function, the checks that it depends on
_STATIC: tuple[tuple[str, Callable[[Path], str], tuple[str, ...]], ...] = (
    ("files", required_files, ()),
    ("safetensors only", no_pickles, ("files",)),
    ("configuration", configuration, ("files",)),
    ("auto_map", auto_map, ("files",)),
    ("weight files", weight_headers, ("files", "safetensors only")),
    ("weights fit the model", weights_fit, ("weight files", "configuration")),
    ("finite weights", weights_finite, ("weight files", "weights fit the model")),
    ("labels", labels, ("configuration",)),
    ("image processor", image_processor, ("configuration",)),
    ("model card", model_card, ("files",)),
    ("records", records, ("finite weights",)),
    ("secrets", no_secrets, ("files",)),
)
# The same for a model of transformers or timm, with these in place of the checks of those names.
_OWN: dict[str, dict[str, Callable[[Path], str]]] = {
    HF.name: {
        "configuration": hf_configuration, "weights fit the model": hf_weights_fit, "image processor": hf_processor,
    },
    TIMM.name: {
        "configuration": timm_configuration, "weights fit the model": timm_weights_fit,
        "image processor": timm_preparation,
    },
}  # fmt: skip
_TABLES = {CUSTOM.name: _STATIC} | {
    form: tuple(
        ("no code", no_code, needs) if name == "auto_map" else (name, own.get(name, check), needs)
        for name, check, needs in _STATIC
    )
    for form, own in _OWN.items()
}
