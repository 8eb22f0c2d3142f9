"""The same answers sooner: a classifier in the fastest of the ways that this machine has, found by timing them.

Whatever is chosen, on the first images its logits are those of the eager model in float32 within EXACT, or it is not
chosen. The choice and the file it needs are kept in $VIT_CUSTOM_CACHE/engines or ~/.cache/vit_custom/engines, where
nobody else can write (see `private_folder`): the next process starts with them. No further way is tried once a quarter
of the time has passed that the eager model needs for all images; if some were not tried, twice as many images are
reason to choose anew.

Shapes: B batch, C channels, H×W pixels, K classes.
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
from ..modeling_vit_custom import ViTCustomForImageClassification
from .exported import ExportedClassifier, Run, in_parts_of
from .logits import LogitsOf
from .registry import build_engine, installed_engines

logger = logging.getLogger(__name__)

EXACT = 1e-4  # largest difference of logits
CHOICE = "choice.json"
SHARE = 0.25  # of the eager model's time for all images, that choosing may take
WORTH = 20.0  # seconds of the eager model, below which nothing is chosen
REPEATS = 3


@dataclass(frozen=True)
class Way:
    """engine: one of ENGINES.   images: in one call.   streams: calls at a time, one thread each."""

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
    """(what answers as `model` does, a sentence on what was chosen and what it gains), for batches like `images`.

    images: some real pixel values [B, C, H, W].   total: how many will follow, in this process.   engines: the
    candidates; all that are installed if not given. Where a model has no other way (on other accelerators, in another
    format, not this package's, an export; with embeddings, or images of several sizes), or there are few images, it is
    returned as it is.
    """
    if why := reason_against(model, processor, embeddings):
        return model, f"eager ({why})"
    images = images.to(model.device)
    engines = list(engines or installed_engines(model.device.type))
    folder = cache_folder(model, processor, len(images))
    if (known := read_choice(folder, engines, total)) is not None:
        if (kept := reopened(known, model, images, folder)) is not None:
            return kept, f"{Way(**known['way'])} (chosen before: {known['gain']:.2f} times eager)"
        shutil.rmtree(folder, ignore_errors=True)
    eager = partial(LogitsOf(model), images)
    if images.is_cuda:
        timed(eager)  # the first one loads kernels
    whole = timed(eager) * total / len(images)
    if whole < WORTH:
        return model, f"eager ({whole:.0f} s for all images: choosing would take longer than it gains)"
    make_folders(folder)
    rates, runs, all_tried = choose(model, images, engines, folder, limit=SHARE * whole)
    best = next(iter(rates))
    gain = rates[best] / rates[Way("eager", len(images))]
    enough_for = None if all_tried else 2 * total
    write_json(folder / CHOICE, {"way": asdict(best), "gain": gain, "engines": engines, "enough_for": enough_for})
    for other in folder.iterdir():
        if other.is_dir() and other.name != files_of(best):
            shutil.rmtree(other, ignore_errors=True)
    tighten(folder)  # files follow the umask
    return classifier(model, runs[best]), f"{best}: {gain:.2f} times eager (images/s: {told(rates)})"


def choose(
    model: Any, images: torch.Tensor, engines: Sequence[str], folder: Path, limit: float
) -> tuple[dict[Way, float], dict[Way, Run], bool]:
    """(images a second of each way that gives the model's answers, the fastest first; the ways, ready to run; whether
    there was time to try all).

    Eager with whole batches is among them. folder: for the files of engines. limit: seconds, after which no further way
    is tried. One that cannot be built here, or answers otherwise, is left out, which is logged.
    """
    eager, logits_of = Way("eager", len(images)), LogitsOf(model)
    runs: dict[Way, Run] = {eager: build(eager, logits_of, images, folder)}
    best: dict[Way, float] = {}
    all_tried, until = True, time.perf_counter() + limit
    with torch.inference_mode():
        for way in candidates(engines, len(images), images.device.type):
            if time.perf_counter() > until:
                logger.warning(f"not tried, for want of time: {way}")
                all_tried = False
                continue
            try:
                run = build(way, logits_of, images, folder)
                same = agrees(classifier(model, run), model, images)
            except Exception as error:  # no compiler, an operator that a runtime lacks: whatever it is, others may do
                logger.warning(f"left out: {way} ({type(error).__name__}: {str(error).splitlines()[0][:200]})")
                continue
            if same:
                runs[way] = run
            else:
                logger.warning(f"left out: {way} (its answers differ by more than {EXACT})")
        for run in runs.values():
            run(images)  # a compiler, told of the next way, may have forgotten this one
        for round_ in range(REPEATS):  # in turn; the slowest only once
            for way, run in runs.items():
                if round_ == 0 or best[way] <= 1.5 * min(best.values()):
                    best[way] = min(timed(partial(run, images), least=0.1), best.get(way, float("inf")))
    rates = {way: len(images) / seconds for way, seconds in best.items()}
    return dict(sorted(rates.items(), key=lambda item: -item[1])), runs, all_tried


def timed(call: Callable[[], Any], least: float = 0.0) -> float:
    """Seconds of one call, the shortest of as many as take `least` seconds."""
    best, until = float("inf"), time.perf_counter() + least
    with torch.inference_mode():
        while True:
            began = time.perf_counter()
            call()
            finished()
            best = min(best, time.perf_counter() - began)
            if time.perf_counter() >= until:
                return best


def told(rates: Mapping[Way, float]) -> str:
    return ", ".join(f"{way} {rate:.1f}" for way, rate in rates.items())


def reason_against(model: Any, processor: Any, embeddings: bool) -> str | None:
    """Why nothing but the model as it is can be used."""
    if isinstance(model, ExportedClassifier):
        return "an export has its own engine"
    if not isinstance(model, ViTCustomForImageClassification):
        return "only this package's own models have other engines"
    if embeddings:
        return "the other engines give logits alone"
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
        return float((found(images).logits - model(images).logits).abs().max()) <= EXACT


def candidates(engines: Sequence[str], batch_size: int, device: str = "cpu") -> Iterator[Way]:
    """Ways worth timing: whole batches, and on CPUs parts of them that fit the processor's caches."""
    if device != "cpu":
        yield from (Way(engine, batch_size) for engine in reversed(engines) if engine != "eager")
        return
    threads = torch.get_num_threads()
    in_torch = "joined" if "joined" in engines else "eager"
    if in_torch in engines and threads > 1 and batch_size > 1:
        for size in sorted({max(1, batch_size // threads), min(4, batch_size)}):
            yield Way(in_torch, size, streams=threads)
    for engine in reversed(engines):  # other runtimes gain most
        for size in sorted({min(8, batch_size), batch_size}):
            if engine != "eager" or (in_torch == "eager" and size != batch_size):
                yield Way(engine, size)


def build(way: Way, logits_of: LogitsOf, images: torch.Tensor, folder: Path) -> Run:
    """pixel_values [B, C, H, W] -> logits [B, K], for any B."""
    run = build_engine(way.engine, logits_of, images[: way.images], folder / files_of(way))
    return partial(in_parts, run, way)


def files_of(way: Way) -> str:
    """The name of the folder in which an engine keeps its file."""
    return f"{way.engine}-{way.images}"


def in_parts(run: Run, way: Way, images: torch.Tensor) -> torch.Tensor:
    """Parts of `way.images`; the last is filled up for engines that are made for one size."""
    if way.streams > 1:
        return side_by_side(run, images.split(way.images), way.streams)
    if way.engine in ("eager", "joined"):
        return torch.cat([run(part) for part in images.split(way.images)])
    return in_parts_of(way.images, run, images)


def side_by_side(run: Run, parts: Sequence[torch.Tensor], streams: int) -> torch.Tensor:
    """Each part by one thread alone: small products gain more from that than from being shared among threads."""

    def alone(part: torch.Tensor) -> torch.Tensor:
        torch.set_num_threads(1)  # of this thread's own calls
        with torch.inference_mode():
            return run(part)

    with ThreadPoolExecutor(streams) as pool:
        return torch.cat(list(pool.map(alone, parts)))


def classifier(model: Any, run: Run) -> ExportedClassifier:
    size = [1, model.config.num_channels, *model.config.image_hw]
    record = {"input": size, "dynamic": ["batch"], "preprocessing": False, "sha256": ""}
    return ExportedClassifier(model.config, run, record, model.device).eval()


# ---------- what is kept


def cache_folder(model: Any, processor: Any, batch_size: int) -> Path:
    """Of this model, these versions, this hardware and as many threads; nobody else can have changed what is in it."""
    timed_on = {"processor": processor_key(), "threads": torch.get_num_threads(), "batch_size": batch_size}
    name = fingerprint(model, processor, versions() | hardware(model.device) | timed_on)[:24]
    return private_folder("engines", name)


def read_choice(folder: Path, engines: Sequence[str], total: int) -> dict[str, Any] | None:
    """What was chosen before among the same engines, unless more time than then is worth spending on it."""
    try:
        known = json.loads((folder / CHOICE).read_text(encoding="utf-8"))
        enough = known["enough_for"] is None or total <= known["enough_for"]
        return known if enough and known["engines"] == list(engines) else None
    except (OSError, ValueError, KeyError):
        return None


def reopened(known: dict[str, Any], model: Any, images: torch.Tensor, folder: Path) -> ExportedClassifier | None:
    """The way that was chosen before; None where it does not run, or answer as the model does, any more."""
    try:
        way = Way(**known["way"])
        found = classifier(model, build(way, LogitsOf(model), images[: way.images], folder))
        return found if agrees(found, model, images[:1]) else None
    except Exception as error:
        logger.warning(f"{known['way']}, chosen before, does not run any more ({error}): chosen anew")
        return None
