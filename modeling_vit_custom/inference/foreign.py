"""Configurations of other libraries' models, checked before transformers or timm builds anything of them.

The stored values are untrusted. They are compared with the weight files beside them, and none of them may choose code
or files to load.
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
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file, logging

from ..foreign_vit_custom import refuse_fetching_quantization
from ..labels_vit_custom import MAX_LABELS, reject_field
from ..weight_files_vit_custom import BITS, MAX_TENSORS, Header, check_weight_map, parse_strict_json, read_headers

logger = logging.get_logger(__name__)

# Keys that name a kernel of the Hub or a file, or that patch the model's classes; attn_implementation in any spelling.
_NAMES_CODE = re.compile(
    r".*_implementation(_internal)?|transformers_weights|fusion_config|kernel_config|use_kernels|distributed_config"
)
# Arguments of timm.create_model that name files or repositories instead of describing a model.
_TIMM_SOURCES = {
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable",
    "exportable", "no_jit", "pretrained_strict", "pretrained_filter_fn", "pretrained_custom_load", "features_only",
    "feature_cfg", "kwargs_filter",
}  # fmt: skip
_COUNTS = re.compile(r"(.*_)?(layers?|depths?|blocks|stages)")  # counts of parts that each hold at least one tensor
_LABEL_COUNTS = ("num_labels", "num_classes")
_AT_LEAST_ONE = (
    "num_hidden_layers", "num_attention_heads", "hidden_size", "hidden_sizes", "embed_dim", "depths", "image_size",
    "patch_size", "num_channels",
)  # fmt: skip
_MAX_LAYERS = 512  # the limit of this package's models too
_LARGEST_NUMBER = 2**24  # no field of an image model is larger
_LARGEST_IMAGE = 8192  # pixels, of an image processor; the limit of this package's too
_MAX_PARAMETERS = 30_000_000_000
_NEW_PARAMETERS = 2**20  # a model may have this many more than its files hold before it is TooLarge
_DEEPEST = 50  # levels of nesting in a configuration
_DTYPES = {f"{prefix}{name}" for prefix in ("", "torch.") for name in ("float16", "bfloat16", "float32", "float64")}


class TooLarge(ValueError):
    """A model larger than its weight files can hold."""


def stored_fields(source: str | os.PathLike, **where: Any) -> dict[str, Any]:
    """Read config.json of a folder or a Hub id; {} if there is none.   where: the revision of a Hub id.

    Raises FileNotFoundError if `source` is neither, ValueError for JSON that is nested too deeply.
    """
    try:
        fields, _ = PreTrainedConfig.get_config_dict(source, **where)
        _ = list(_values(fields))
    except OSError as error:
        gone = isinstance(error.__cause__, LocalEntryNotFoundError | RepositoryNotFoundError)
        if not gone or isinstance(error.__cause__, GatedRepoError):
            raise
        raise FileNotFoundError(
            f"{source}: no such folder, and as a Hub id it cannot be had from {constants.ENDPOINT}. Check the path; of "
            "a private model, that you are logged in (`hf auth login`)."
        ) from error
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
    """Load transformers' configuration of another library's model, without keys that choose code or files to load.

    fields: its config.json.   header: of its weight files.   models: configuration classes that are accepted.   where:
    the revision of a Hub id. Raises ValueError as `check_fields` does, and for other kinds of models.
    """
    if trust_remote_code and fields.get("auto_map"):  # only its own code knows which fields are sizes
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
    """Raise ValueError, naming the field, for values that no model of these tensors has, or that fetch something."""
    refuse_fetching_quantization(fields)
    for name in ("dtype", "torch_dtype"):
        if fields.get(name) is not None and fields[name] not in _DTYPES:
            reject_field(name, fields[name], f"{source}: must be one of {', '.join(sorted(_DTYPES))}")
    if "architecture" in fields:
        _check_timm(source, fields)
    stored, tensors = _most_parameters(header), _tensors(header)
    for path, name, value in _values(fields):
        if name == "backbone" and value is not None:
            reject_field(
                path, value, f"{source}: names another model to load; give one whose backbone_config says it all"
            )
        if isinstance(value, float) and not math.isfinite(value):
            reject_field(path, value, f"{source}: must be a finite number")
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        if abs(value) > _LARGEST_NUMBER:
            reject_field(path, value, f"{source}: must be at most {_LARGEST_NUMBER}")
        if name in _AT_LEAST_ONE and value < 1:
            reject_field(path, value, f"{source}: must be at least 1")
        if name in _LABEL_COUNTS and not 0 <= value <= min(MAX_LABELS, stored):
            reject_field(
                path, value, f"{source}: must be from 0 to {MAX_LABELS}, and not more than its files hold numbers"
            )
        if _COUNTS.fullmatch(name) and value > min(_MAX_LAYERS, tensors):
            fix = f"must be at most {_MAX_LAYERS}, and its weight files hold {tensors} tensors"
            reject_field(path, value, f"{source}: {fix}. Give the folder as it was saved")


def check_processor_fields(source: str | os.PathLike, fields: Mapping[str, Any]) -> None:
    """Raise ValueError for another library's image processor with numbers beyond 8192, the most pixels a side."""
    for path, _, value in _values(fields):
        if isinstance(value, int | float) and not abs(value) <= _LARGEST_IMAGE:  # also refuses NaN
            reject_field(
                path, value, f"{source}: an image processor's numbers must be finite and at most {_LARGEST_IMAGE}"
            )


def check_size(source: str | os.PathLike, build: Callable[[], Any], header: Header) -> None:
    """Raise ValueError unless the model that `build` makes fits into files of this header.

    The model is built without memory for its tensors. Each parameter is counted as it is added, and building stops once
    there are more than the files can hold. transformers splits some stored tensors, such as those of queries, keys and
    values, so more tensors than stored are allowed.
    """
    stored, tensors = _most_parameters(header), _tensors(header)
    most = min(stored + _NEW_PARAMETERS, _MAX_PARAMETERS)
    with torch.device("meta"), _counted(source, most, stored, 2 * tensors + 64, tensors):
        try:
            build()
        except TooLarge:
            raise
        except Exception as error:  # of any type, since the values are untrusted
            raise ValueError(f"{source}: its configuration makes no model: {error}") from error


def check_timm_folder(folder: str | os.PathLike, header: Header, **arguments: Any) -> None:
    """Raise ValueError unless the model of a folder that timm saved for the Hub fits into files of this header.

    Call `check_fields` on its config.json first.
    """
    import timm

    check_size(folder, lambda: timm.create_model(f"local-dir:{folder}", pretrained=False, **arguments), header)


@contextmanager
def _counted(source: Any, most: int, stored: int, most_tensors: int, tensors: int) -> Iterator[None]:
    """A context that raises TooLarge when this thread adds more parameters to modules than the limits allow."""
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
    """The most parameters that files of this header can hold: a quantised one takes at least 2 bits."""
    return sum(BITS[dtype] * math.prod(shape) for dtype, shape in header.values()) // 2


def check_stored_whole(path: str | os.PathLike, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError if tensors of a `.pth` file are much larger than what is stored: copies would fill the memory.

    A view can repeat one number without end, and many names can share one storage.
    """
    if len(tensors) > MAX_TENSORS:
        raise ValueError(f"{path}: it names {len(tensors):,} tensors, more than {MAX_TENSORS:,}.")
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    stored, claimed = sum(storages.values()), sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    if claimed > 4 * stored:  # some sharing is normal, such as tied weights
        raise ValueError(
            f"{path}: its tensors claim {claimed:,} bytes, {stored:,} are stored. Save copies of them, tensor.clone()."
        )


def header_of(tensors: Mapping[str, torch.Tensor]) -> Header:
    """Return the header of these tensors, as of a safetensors file; types are named by their width alone."""
    return {name: (f"U{min(8 * tensor.itemsize, 64)}", tuple(tensor.shape)) for name, tensor in tensors.items()}


def _tensors(header: Header) -> int:
    """The number of tensors in files of this header that are not empty."""
    return sum(0 not in shape for _, shape in header.values())


def weights_header(source: str | os.PathLike, **where: Any) -> Header:
    """Read and check the header of a saved model's safetensors files, in a folder or on the Hub.

    Files of the Hub are downloaded if need be.   where: its revision. Raises OSError if there are none, WeightFileError
    for a file whose header is false.
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
    """Raise ValueError for an adapter beside the model: transformers would load the repository that it names."""
    softly = {"_raise_exceptions_for_missing_entries": False, **where}
    if cached_file(source, "adapter_config.json", **softly):
        raise ValueError(
            f"{source} holds an adapter (adapter_config.json), which names another model to load. Merge it into its "
            "model first, model.merge_and_unload() of peft, and save that."
        )


def _check_timm(source: Any, fields: Mapping[str, Any]) -> None:
    """Raises ValueError unless timm's fields describe a model of the installed timm.

    The architecture must be a plain name, and the arguments must name no file and no repository.
    """
    architecture, arguments = fields["architecture"], fields.get("model_args") or {}
    if not isinstance(architecture, str) or not re.fullmatch(r"[A-Za-z0-9_.]+", architecture):
        reject_field("architecture", architecture, f"{source}: must be the plain name of an architecture of timm")
    known = fields.get("pretrained_cfg") or {}
    check_processor_fields(source, {name: value for name, value in known.items() if name.endswith("input_size")})
    for name in ("crop_pct", "test_crop_pct"):
        if known.get(name) is not None and not 0.1 <= known[name] <= 10:
            reject_field(name, known[name], f"{source}: must be from 0.1 to 10")
    if not isinstance(arguments, dict) or (sources := sorted(arguments.keys() & _TIMM_SOURCES)):
        reject_field("model_args", arguments, f"{source}: must describe the model, without {', '.join(sources)}")


def _values(fields: Any, path: str = "", name: str = "", depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """(path, innermost key, value) of every plain value, and of the sum of every list of counts, such as `depths`.

    Raises RecursionError beyond _DEEPEST levels, independently of Python's own limit.
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
    """Every key, at any depth, that names code and has a value."""
    if isinstance(fields, Mapping):
        yield from (str(key) for key, value in fields.items() if value is not None and _NAMES_CODE.fullmatch(str(key)))
    for part in fields.values() if isinstance(fields, Mapping) else fields if isinstance(fields, list) else ():
        yield from _named(part)


def code_named(fields: Mapping[str, Any]) -> list[str]:
    """Return the keys of a stored configuration that choose code or files to load."""
    return sorted(set(_named(fields)))


def _disarm(part: Any, seen: set[int] | None = None) -> None:
    """Set the attributes that name code to None, in a configuration and all parts of it: transformers chooses."""
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
