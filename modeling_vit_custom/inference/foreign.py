"""Configurations of other libraries' models, checked before transformers or timm builds anything of them.

Their stored values are a stranger's: they are compared with the weight files that lie beside them, and none of them
chooses code or files to load.
"""

import math
import os
import re
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file, logging

from ..foreign_vit_custom import refuse_fetching_quantization
from ..labels_vit_custom import MAX_LABELS, refuse
from ..weight_files_vit_custom import BITS, MAX_TENSORS, Header, check_weight_map, parse_strict_json, read_headers

logger = logging.get_logger(__name__)

# Keys that name a kernel of the Hub or a file, or patch the model's classes: attn_implementation, under any spelling.
_NAMES_CODE = re.compile(
    r".*_implementation(_internal)?|transformers_weights|fusion_config|kernel_config|use_kernels|distributed_config"
)
# Arguments of timm.create_model that name files or repositories instead of describing a model.
_TIMM_SOURCES = {
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable",
    "exportable", "no_jit", "pretrained_strict", "pretrained_filter_fn", "pretrained_custom_load", "features_only",
    "feature_cfg", "kwargs_filter",
}  # fmt: skip
_COUNTS = re.compile(r"(.*_)?(layers?|depths?|blocks|stages)")  # of parts of which each holds at least one tensor
_LABEL_COUNTS = ("num_labels", "num_classes")
_AT_LEAST_ONE = (
    "num_hidden_layers", "num_attention_heads", "hidden_size", "hidden_sizes", "embed_dim", "depths", "image_size",
    "patch_size", "num_channels",
)  # fmt: skip
_MAX_LAYERS = 512  # as of ours
_LARGEST_NUMBER = 2**24  # no field of an image model is larger
_LARGEST_IMAGE = 8192  # of an image processor, in pixels, as of ours
_MAX_PARAMETERS = 30_000_000_000
_NEW_PARAMETERS = 2**20  # what a model may have that its files lack, before that becomes an error of its own
_DEEPEST = 50  # parts within parts of a configuration
_DTYPES = {f"{prefix}{name}" for prefix in ("", "torch.") for name in ("float16", "bfloat16", "float32", "float64")}


class TooLarge(ValueError):
    """A model that its weight files cannot hold."""


def stored_fields(source: str | os.PathLike, **where: Any) -> dict[str, Any]:
    """What config.json of a folder or a Hub id says, {} without one.   where: the revision of a Hub id.

    Raises ValueError for JSON that is nested without end.
    """
    try:
        fields, _ = PreTrainedConfig.get_config_dict(source, **where)
        _ = list(_values(fields))
    except RecursionError as error:
        raise ValueError(f"{source}: its config.json is nested too deeply.") from error
    return fields


def foreign_config(
    source: str | os.PathLike,
    fields: Mapping[str, Any],
    header: Header,
    models: Container[type] = MODEL_MAPPING,
    trust_remote_code: bool = False,
    **where: Any,
) -> PreTrainedConfig:
    """transformers' configuration object of another library's model, without what chooses code or files to load.

    fields: its config.json.   header: of its weight files.   models: configuration classes that will do.
    where: the revision of a Hub id. Raises ValueError as `check_fields` does, and for other kinds of models.
    """
    if trust_remote_code and fields.get("auto_map"):  # what its own code takes for sizes is known to that code alone
        refuse_fetching_quantization(fields)
    else:
        check_fields(source, fields, header)
        kind = str(fields.get("model_type"))
        if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind] not in models:
            raise ValueError(
                f"{source}: model_type={kind!r} is not one that transformers has for this use. Give another model; a "
                "model's own code runs by trust_remote_code alone."
            )
    if left_out := sorted(set(_named(fields))):
        logger.warning(f"{source}: stored keys that choose code or files to load are left out: {', '.join(left_out)}.")
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **where)
    except (TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{source}: transformers cannot read its configuration: {error}") from error
    _disarm(config)
    return config


def check_fields(source: str | os.PathLike, fields: Mapping[str, Any], header: Header) -> None:
    """Raises ValueError, naming the field, for values that no model of these tensors has, or that fetch something."""
    refuse_fetching_quantization(fields)
    for name in ("dtype", "torch_dtype"):
        if fields.get(name) is not None and fields[name] not in _DTYPES:
            refuse(name, fields[name], f"{source}: must be one of {', '.join(sorted(_DTYPES))}")
    if "architecture" in fields:
        _check_timm(source, fields)
    stored, tensors = _most_parameters(header), _tensors(header)
    for path, name, value in _values(fields):
        if name == "backbone" and value is not None:
            refuse(path, value, f"{source}: names another model to load; give one whose backbone_config says it all")
        if isinstance(value, float) and not math.isfinite(value):
            refuse(path, value, f"{source}: must be a finite number")
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        if abs(value) > _LARGEST_NUMBER:
            refuse(path, value, f"{source}: must be at most {_LARGEST_NUMBER}")
        if name in _AT_LEAST_ONE and value < 1:
            refuse(path, value, f"{source}: must be at least 1")
        if name in _LABEL_COUNTS and not 0 <= value <= min(MAX_LABELS, stored):
            refuse(path, value, f"{source}: must be from 0 to {MAX_LABELS}, and not more than its files hold numbers")
        if _COUNTS.fullmatch(name) and value > min(_MAX_LAYERS, tensors):
            fix = f"must be at most {_MAX_LAYERS}, and its weight files hold {tensors} tensors"
            refuse(path, value, f"{source}: {fix}. Give the folder as it was saved")


def check_processor_fields(source: str | os.PathLike, fields: Mapping[str, Any]) -> None:
    """Raises ValueError for an image processor of another library that makes images of more than 8192 pixels a side."""
    for path, _, value in _values(fields):
        if isinstance(value, int | float) and not abs(value) <= _LARGEST_IMAGE:  # also refuses NaN
            refuse(path, value, f"{source}: an image processor's numbers must be finite and at most {_LARGEST_IMAGE}")


def check_size(source: str | os.PathLike, build: Callable[[], Any], header: Header) -> None:
    """Raises ValueError unless the model that `build` makes can lie in files of this header.

    It is made without memory for its tensors, and no further than the files reach: each of its parameters is counted
    as it is added. transformers takes some stored tensors apart, such as those of queries, keys and values.
    """
    stored, tensors = _most_parameters(header), _tensors(header)
    most = min(stored + _NEW_PARAMETERS, _MAX_PARAMETERS)
    with torch.device("meta"), _counted(source, most, stored, 2 * tensors + 64, tensors):
        try:
            build()
        except TooLarge:
            raise
        except Exception as error:  # anything, since the values are a stranger's
            raise ValueError(f"{source}: its configuration makes no model: {error}") from error


def check_timm_folder(folder: str | os.PathLike, header: Header, **arguments: Any) -> None:
    """The same of a folder as timm saves them for the Hub, whose config.json `check_fields` has passed."""
    import timm

    check_size(folder, lambda: timm.create_model(f"local-dir:{folder}", pretrained=False, **arguments), header)


@contextmanager
def _counted(source: Any, most: int, stored: int, most_tensors: int, tensors: int) -> Iterator[None]:
    """Within, this thread cannot add more than so many parameters to modules: TooLarge."""
    here, count = threading.get_ident(), [0, 0]

    def add(_module: Any, name: str, parameter: Any) -> None:
        if threading.get_ident() != here or parameter is None:
            return
        count[0] += 1
        count[1] += parameter.numel()
        if count[0] > most_tensors or count[1] > most:
            raise TooLarge(
                f"{source}: its configuration asks for a larger model than its weight files hold ({tensors:,} tensors, "
                f"at most {stored:,} parameters): the building stopped at {name!r} with {count[0]:,} tensors and "
                f"{count[1]:,} parameters. Give the folder as it was saved."
            )

    handle = torch.nn.modules.module.register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _most_parameters(header: Header) -> int:
    """How many parameters files of this header hold at most: quantised, one has 2 bits or more."""
    return sum(BITS[dtype] * math.prod(shape) for dtype, shape in header.values()) // 2


def check_stored_whole(path: str | os.PathLike, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises ValueError for tensors of a `.pth` file that are larger than what is stored: copies would fill the memory.

    A view can repeat one number without end, and many names can share one storage.
    """
    if len(tensors) > MAX_TENSORS:
        raise ValueError(f"{path}: it names {len(tensors):,} tensors, more than {MAX_TENSORS:,}.")
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    stored, claimed = sum(storages.values()), sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    if claimed > 4 * stored:  # tied weights and the like are the same numbers twice
        raise ValueError(
            f"{path}: its tensors claim {claimed:,} bytes, {stored:,} are stored. Save copies of them, tensor.clone()."
        )


def header_of(tensors: Mapping[str, torch.Tensor]) -> Header:
    """What a safetensors file of these tensors would say of them."""
    return {name: (f"U{min(8 * tensor.itemsize, 64)}", tuple(tensor.shape)) for name, tensor in tensors.items()}


def _tensors(header: Header) -> int:
    """How many tensors of files of this header hold anything."""
    return sum(0 not in shape for _, shape in header.values())


def weights_header(source: str | os.PathLike, **where: Any) -> Header:
    """The checked header of a saved model's safetensors files, in a folder or (downloaded, if need be) on the Hub.

    where: its revision. Raises OSError where there is none, WeightFileError for one that lies.
    """
    softly = {"_raise_exceptions_for_missing_entries": False, **where}
    if found := cached_file(source, SAFE_WEIGHTS_NAME, **softly):
        return read_headers([found])
    if not (index := cached_file(source, SAFE_WEIGHTS_INDEX_NAME, **softly)):
        raise OSError(f"{source} has no file named {SAFE_WEIGHTS_NAME}; other weights are not read.")
    weight_map = parse_strict_json(Path(index).read_bytes(), index).get("weight_map")
    check_weight_map(weight_map, source)
    assert isinstance(weight_map, dict)
    files = [cached_file(source, name, **where) for name in sorted(set(weight_map.values()))]
    return read_headers([file for file in files if file is not None])


def refuse_adapter(source: str | os.PathLike, **where: Any) -> None:
    """Raises ValueError for an adapter beside the model: transformers would load what it names, another repository."""
    softly = {"_raise_exceptions_for_missing_entries": False, **where}
    if cached_file(source, "adapter_config.json", **softly):
        raise ValueError(
            f"{source} holds an adapter (adapter_config.json), which names another model to load. Merge it into its "
            "model first, model.merge_and_unload() of peft, and save that."
        )


def _check_timm(source: Any, fields: Mapping[str, Any]) -> None:
    """timm's arguments describe a model of the installed timm, and name no file and no repository."""
    architecture, arguments = fields["architecture"], fields.get("model_args") or {}
    if not isinstance(architecture, str) or not re.fullmatch(r"[A-Za-z0-9_.]+", architecture):
        refuse("architecture", architecture, f"{source}: must be the plain name of an architecture of timm")
    known = fields.get("pretrained_cfg") or {}
    check_processor_fields(source, {name: value for name, value in known.items() if name.endswith("input_size")})
    for name in ("crop_pct", "test_crop_pct"):
        if known.get(name) is not None and not 0.1 <= known[name] <= 10:
            refuse(name, known[name], f"{source}: must be from 0.1 to 10")
    if not isinstance(arguments, dict) or (sources := sorted(arguments.keys() & _TIMM_SOURCES)):
        refuse("model_args", arguments, f"{source}: must describe the model, without {', '.join(sources)}")


def _values(fields: Any, path: str = "", name: str = "", depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """(path, name of the innermost key, value) of every plain value, and of the sum of every list of whole numbers.

    Raises RecursionError beyond _DEEPEST, whatever Python's own limit is just now.
    """
    if depth > _DEEPEST:
        raise RecursionError
    if isinstance(fields, Mapping):
        for key, value in fields.items():
            yield from _values(value, f"{path}.{key}" if path else str(key), str(key), depth + 1)
    elif isinstance(fields, list | tuple):
        if fields and all(isinstance(value, int) for value in fields) and _COUNTS.fullmatch(name):
            yield path, name, sum(fields)
        for value in fields:
            yield from _values(value, path, name, depth + 1)
    else:
        yield path, name, fields


def _named(fields: Any) -> Iterator[str]:
    """Every key, at any depth, that names code."""
    if isinstance(fields, Mapping):
        yield from (str(key) for key, value in fields.items() if value is not None and _NAMES_CODE.fullmatch(str(key)))
    for part in fields.values() if isinstance(fields, Mapping) else fields if isinstance(fields, list) else ():
        yield from _named(part)


def _disarm(part: Any, seen: set[int] | None = None) -> None:
    """Sets to None, in a configuration and in all parts of it, the attributes that name code: transformers chooses."""
    seen = set() if seen is None else seen
    if id(part) in seen:
        return
    seen.add(id(part))
    inside = vars(part) if isinstance(part, PreTrainedConfig) else part
    if isinstance(inside, dict):
        for name in [name for name in inside if isinstance(name, str) and _NAMES_CODE.fullmatch(name)]:
            inside[name] = None
    for value in inside.values() if isinstance(inside, dict) else inside if isinstance(inside, list | tuple) else ():
        if isinstance(value, PreTrainedConfig | dict | list | tuple):
            _disarm(value, seen)
