"""The fastest engine for a classifier on this machine, found by timing; the answers stay the same.

An engine is chosen only if its outputs on the first images are within EXACT of the eager model's in float32. The choice
and the file it needs are kept in $VIT_CUSTOM_CACHE/engines or ~/.cache/vit_custom/engines, where nobody else can write
(see `private_folder`), so that the next process starts with them. Choosing stops trying candidates after a quarter of
the time that the eager model needs for all images. If some were not tried, a run with more than twice as many images
chooses again.

Shapes: B batch, C channels, H×W pixels, K outputs.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..common.cache_folders import make_folders, private_folder, processor_key, tighten
from ..common.environment import hardware, versions
from ..common.fingerprint import fingerprint
from ..common.json_files import write_json
from ..common.timing import finished
from ..tasks.registry import task_of
from .exported import ExportedClassifier, InferenceFn, in_parts_of
from .output import OutputOf
from .registry import build_engine, installed_engines

logger = logging.getLogger(__name__)

EXACT = 1e-4  # largest difference of outputs
CHOICE = "choice.json"
SHARE = 0.25  # share of the eager model's time for all images that choosing may take
WORTH = 20.0  # seconds; if the eager model needs less for all images, nothing is chosen
REPEATS = 3


@dataclass(frozen=True)
class EngineConfig:
    """One way to run a model.   engine: one of ENGINES.   images: in one call.

    streams: calls that run at the same time, one thread each.
    """

    engine: str
    images: int
    streams: int = 1

    def __str__(self) -> str:
        side_by_side = f", {self.streams} calls side by side" if self.streams > 1 else ""
        return f"{self.engine}, {self.images} images a call{side_by_side}"


def fastest(
    model: Any,
    processor: Any,
    images: torch.Tensor,
    total: int,
    embeddings: bool = False,
    engines: Sequence[str] | None = None,
) -> tuple[Any, str]:
    """Return (the fastest equivalent of `model` for batches like `images`, a sentence on the choice and its gain).

    images: some real pixel values [B, C, H, W].   total: how many images will follow in this process.   engines: the
    candidates; if None, all that are installed. `model` itself is returned if it has no other engine (on other
    accelerators, in another number format, not this package's, an export; with embeddings, or images of several sizes),
    or if there are few images.
    """
    if why := reason_against(model, processor, embeddings):
        return model, f"eager ({why})"
    images = images.to(model.device)
    engines = list(engines or installed_engines(model.device.type))
    folder = cache_folder(model, processor, len(images))
    if (known := read_choice(folder, engines, total)) is not None:
        if (kept := reopened(known, model, images, folder)) is not None:
            return kept, f"{EngineConfig(**known['way'])} (chosen before: {known['gain']:.2f} times eager)"
        shutil.rmtree(folder, ignore_errors=True)
    eager = partial(output_of(model), images)
    if images.is_cuda:
        timed(eager)  # the first call loads kernels
    whole = timed(eager) * total / len(images)
    if whole < WORTH:
        return model, f"eager ({whole:.0f} s for all images: choosing would take longer than it gains)"
    make_folders(folder)
    rates, runs, all_tried = choose(model, images, engines, folder, limit=SHARE * whole)
    best = next(iter(rates))
    gain = rates[best] / rates[EngineConfig("eager", len(images))]
    enough_for = None if all_tried else 2 * total
    write_json(folder / CHOICE, {"way": asdict(best), "gain": gain, "engines": engines, "enough_for": enough_for})
    for other in folder.iterdir():
        if other.is_dir() and other.name != files_of(best):
            shutil.rmtree(other, ignore_errors=True)
    tighten(folder)  # files follow the umask
    return classifier(model, runs[best]), f"{best}: {gain:.2f} times eager (images/s: {format_rates(rates)})"


def choose(
    model: Any, images: torch.Tensor, engines: Sequence[str], folder: Path, limit: float
) -> tuple[dict[EngineConfig, float], dict[EngineConfig, InferenceFn], bool]:
    """Return (images a second of each usable way, fastest first; the ways, ready to run; whether all were tried).

    A way is usable if it can be built here and gives the model's answers; others are left out, which is logged. The
    eager model with whole batches is always included.   folder: for the files of engines.   limit: seconds after which
    no further way is tried.
    """
    eager, net = EngineConfig("eager", len(images)), output_of(model)
    runs: dict[EngineConfig, InferenceFn] = {eager: build(eager, net, images, folder)}
    best: dict[EngineConfig, float] = {}
    all_tried, until = True, time.perf_counter() + limit
    with torch.inference_mode():
        for way in candidates(engines, len(images), images.device.type):
            if time.perf_counter() > until:
                logger.warning(f"not tried, for want of time: {way}")
                all_tried = False
                continue
            try:
                run = build(way, net, images, folder)
                same = agrees(classifier(model, run), model, images)
            except Exception as error:  # no compiler, an operator that a runtime lacks: other ways may still work
                logger.warning(f"left out: {way} ({type(error).__name__}: {str(error).splitlines()[0][:200]})")
                continue
            if same:
                runs[way] = run
            else:
                logger.warning(f"left out: {way} (its answers differ by more than {EXACT})")
        for run in runs.values():
            run(images)  # compiling a later way may have discarded this one's code
        for round_ in range(REPEATS):  # in turn; slow ways only once
            for way, run in runs.items():
                if round_ == 0 or best[way] <= 1.5 * min(best.values()):
                    best[way] = min(timed(partial(run, images), least=0.1), best.get(way, float("inf")))
    rates = {way: len(images) / seconds for way, seconds in best.items()}
    return dict(sorted(rates.items(), key=lambda item: -item[1])), runs, all_tried


def timed(call: Callable[[], Any], least: float = 0.0) -> float:
    """Return the seconds of one call: the shortest of all calls that begin within `least` seconds, at least one."""
    best, until = float("inf"), time.perf_counter() + least
    with torch.inference_mode():
        while True:
            began = time.perf_counter()
            call()
            finished()
            best = min(best, time.perf_counter() - began)
            if time.perf_counter() >= until:
                return best


def format_rates(rates: Mapping[EngineConfig, float]) -> str:
    return ", ".join(f"{way} {rate:.1f}" for way, rate in rates.items())


def reason_against(model: Any, processor: Any, embeddings: bool) -> str | None:
    """Return why only `model` as it is can be used; None if other engines are possible."""
    if isinstance(model, ExportedClassifier):
        return "an export has its own engine"
    if not isinstance(model, task_of(model.config).listing.model):
        return "only this package's own models have other engines"
    if task_of(model.config).listing.dense:
        return "the other engines give one answer an image"
    if embeddings:
        return "the other engines give logits alone"
    if model.config.unknown is not None and model.config.unknown["score"] != "probability":
        return 'the other engines cannot answer "unknown"'
    if getattr(model.config, "quantization_config", None) is not None:
        return "the other engines are for float32, this is quantised"
    if model.device.type not in ("cpu", "cuda") or model.dtype != torch.float32:
        return f"the other engines are for float32 on CPUs and CUDA, this is {model.dtype} on {model.device.type}"
    size = processor.crop_size if processor.do_center_crop else processor.size if processor.do_resize else {}
    if (size.get("height"), size.get("width")) != model.config.image_hw:
        return "its processor gives images of several sizes"
    return None


def agrees(found: ExportedClassifier, model: Any, images: torch.Tensor) -> bool:
    with torch.inference_mode():
        return float((output_of(found)(images) - output_of(model)(images)).abs().max()) <= EXACT


def candidates(engines: Sequence[str], batch_size: int, device: str = "cpu") -> Iterator[EngineConfig]:
    """Yield the ways worth timing: whole batches and, on CPUs, parts of them that fit the processor's caches."""
    if device != "cpu":
        yield from (EngineConfig(engine, batch_size) for engine in reversed(engines) if engine != "eager")
        return
    threads = torch.get_num_threads()
    in_torch = "joined" if "joined" in engines else "eager"
    if in_torch in engines and threads > 1 and batch_size > 1:
        for size in sorted({max(1, batch_size // threads), min(4, batch_size)}):
            yield EngineConfig(in_torch, size, streams=threads)
    for engine in reversed(engines):  # other runtimes gain most
        for size in sorted({min(8, batch_size), batch_size}):
            if engine != "eager" or (in_torch == "eager" and size != batch_size):
                yield EngineConfig(engine, size)


def output_of(model: Any) -> OutputOf:
    """Return `model` as a function: pixel_values [B, C, H, W] -> the output [B, K] of its task."""
    return OutputOf(model, task_of(model.config).listing.output)


def build(way: EngineConfig, model: OutputOf, images: torch.Tensor, folder: Path) -> InferenceFn:
    """Build the function that runs `model` this way: pixel_values [B, C, H, W] -> output [B, K], for any B."""
    run = build_engine(way.engine, model, images[: way.images], folder / files_of(way))
    return partial(in_parts, run, way)


def files_of(way: EngineConfig) -> str:
    """Return the name of the folder in which the way's engine keeps its file."""
    return f"{way.engine}-{way.images}"


def in_parts(run: InferenceFn, way: EngineConfig, images: torch.Tensor) -> torch.Tensor:
    """Run `images` in parts of `way.images`; fill up the last part for engines that are made for one size."""
    if way.streams > 1:
        return side_by_side(run, images.split(way.images), way.streams)
    if way.engine in ("eager", "joined"):
        return torch.cat([run(part) for part in images.split(way.images)])
    return in_parts_of(way.images, run, images)


def side_by_side(run: InferenceFn, parts: Sequence[torch.Tensor], streams: int) -> torch.Tensor:
    """Run each part on a single thread: small products gain more from that than from sharing several threads."""

    def alone(part: torch.Tensor) -> torch.Tensor:
        torch.set_num_threads(1)  # for this thread's own calls only
        with torch.inference_mode():
            return run(part)

    with ThreadPoolExecutor(streams) as pool:
        return torch.cat(list(pool.map(alone, parts)))


def classifier(model: Any, run: InferenceFn) -> ExportedClassifier:
    size = [1, model.config.num_channels, *model.config.image_hw]
    record = {"input": size, "dynamic": ["batch"], "preprocessing": False, "sha256": ""}
    return ExportedClassifier(model.config, run, record, model.device).eval()


# ---------- what is kept


def cache_folder(model: Any, processor: Any, batch_size: int) -> Path:
    """Return the folder for this model, processor, batch size, versions, hardware and number of threads.

    Nobody else can have changed what is in it.
    """
    timed_on = {"processor": processor_key(), "threads": torch.get_num_threads(), "batch_size": batch_size}
    name = fingerprint(model, processor, versions() | hardware(model.device) | timed_on)[:24]
    return private_folder("engines", name)


def read_choice(folder: Path, engines: Sequence[str], total: int) -> dict[str, Any] | None:
    """Read what was chosen before among the same engines; None if nothing was, or if `total` is worth a new choice."""
    try:
        known = json.loads((folder / CHOICE).read_text(encoding="utf-8"))
        enough = known["enough_for"] is None or total <= known["enough_for"]
        return known if enough and known["engines"] == list(engines) else None
    except (OSError, ValueError, KeyError):
        return None


def reopened(known: dict[str, Any], model: Any, images: torch.Tensor, folder: Path) -> ExportedClassifier | None:
    """Open the way that was chosen before; return None if it no longer runs, or no longer answers as the model does."""
    try:
        way = EngineConfig(**known["way"])
        found = classifier(model, build(way, output_of(model), images[: way.images], folder))
        return found if agrees(found, model, images[:1]) else None
    except Exception as error:
        logger.warning(f"{known['way']}, chosen before, does not run any more ({error}): chosen again")
        return None
