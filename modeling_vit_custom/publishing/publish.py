"""A trained folder to the Hub: `vit-custom publish`.

In this order: stage (an allow-list of files, copied), golden outputs, model card, checks, and only then the upload. All
files go up in one commit, so that no revision is half a model. A commit cannot hold its own name: a second one, of the
card alone, then writes the name of the first into the card's snippet.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import metadata_load
from PIL import Image
from yaml import YAMLError

from .._version import __version__
from ..common.claims import check_claims
from ..common.json_files import read_json
from ..common.model_files import CARD, CONFIG, CONVERSION, METRICS, RUN_FILE, SPEEDS
from ..data.folders import readable_suffixes
from ..tasks.hub import CLASSIFICATION, Listing, listing_of
from .checks import iterate_checks
from .code_files import foreign_code
from .golden import MAX_IMAGES, write_golden
from .report import Check
from .secrets import scan_secrets
from .space import write_space
from .staging import stage
from .upload import PublishError, Repository, check_installed, check_target, commit_holding, explained, upload_folder


@dataclass(frozen=True)
class Origin:
    """What the card says of a model that its files do not, in the Hub's identifiers."""

    license: str
    datasets: Sequence[str] = ()
    base_model: str | None = None


def publish(
    model_dir: str | Path,
    repo_id: str,
    origin: Origin,
    *,
    private: bool = False,
    revision: str | None = None,
    examples: Sequence[str | Path] = (),
    message: str | None = None,
    space: bool = False,
    trust_remote_code: bool = False,
    replace: bool = False,
) -> str:
    """Publishes a saved classifier or encoder; returns the 40-hex sha of the commit that holds model and code.

    revision: the branch, made if there is none (default: main).   examples: images of the golden outputs, published
    with them; without any, those in `model_dir`/examples, or else drawn ones: no photograph goes up unasked.
    space: also publish the demo, as a Space of the same name.   trust_remote_code: run code of the folder, in a fresh
    process, where it is not this package's.   replace: delete the branch's other files; without it they stay, and where
    they would be false or unsafe beside this model nothing is uploaded.   Raises PublishError; nothing has been
    uploaded then, unless it says so.
    """
    check_target(repo_id, revision)
    if space:
        check_demo(model_dir)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        card = prepare(model_dir, folder, repo_id, origin, examples, trust_remote_code)
        how: dict[str, Any] = {"private": private, "revision": revision, "message": message, "replace": replace}
        return send(folder, repo_id, card, space=space, **how)


def send(
    folder: Path,
    repo_id: str,
    card: Callable[..., Path],
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    space: bool = False,
    replace: bool = False,
) -> str:
    """Uploads what `prepare` has left in `folder`, then the card that pins it; returns the sha that is pinned."""
    sha = commit_holding(folder, repo_id, revision=revision, besides=CARD, replace=replace)
    how: dict[str, Any] = {"private": private, "replace": replace}
    if sha is None:
        message = message or f"Publish with ViT Custom {__version__}"
        sha = upload_folder(folder, repo_id, revision=revision, message=message, **how)
    card(folder, revision=sha)
    try:
        upload_folder(folder, repo_id, revision=revision, message=f"Card: pin {sha[:12]}", **how)
        if space:
            with tempfile.TemporaryDirectory() as demo:
                prepare_space(Path(demo), repo_id, sha)
                upload_folder(demo, repo_id, repo_type="space", message=f"Demo of {sha[:12]}", **how)
            with explained(repo_id):
                if Repository(repo_id, "model").is_private():
                    print(
                        f"{repo_id} is private: its Space starts only once its settings on the Hub hold a secret "
                        "HF_TOKEN, a token that may read the model"
                    )
    except PublishError as error:
        raise PublishError(
            f"The model is published, as commit {sha}. What comes after it failed; the same command goes on from "
            f"there. {error}"
        ) from error
    return sha


def prepare(
    model_dir: str | Path,
    staging: Path,
    repo_id: str,
    origin: Origin,
    examples: Sequence[str | Path] = (),
    trust_remote_code: bool = False,
) -> Callable[..., Path]:
    """Fills `staging` with all that is to be published, and checks it.

    Returns `write_card` for this model: called with the folder and a revision it writes the card that pins it. Raises
    PublishError, with all failed checks where there are any.
    """
    check_installed()
    from jinja2 import TemplateError

    from .card import write_card

    try:
        stage(Path(model_dir), staging)
        check_claims(staging, (METRICS, RUN_FILE, CONVERSION, SPEEDS))
        if (staging / CARD).exists():
            print(f"{CARD} is written anew; of the one in {model_dir} only license, datasets and base_model are kept")
        if (foreign := foreign_code(staging)) and not trust_remote_code:
            raise PublishError(
                f"{', '.join(foreign)}: not this package's code. Read it, then pass --trust_remote_code."
            )
        metrics, run = (_read(staging / name) for name in (METRICS, RUN_FILE))
        with tempfile.TemporaryDirectory() as drawn:
            images = [Path(image) for image in examples] or images_in(Path(model_dir) / "examples")
            print(f"example images, to be published: {', '.join(map(str, images)) or 'drawn ones, no photographs'}")
            write_golden(staging, images or draw_images(Path(drawn), _read(staging / CONFIG) or {}))
        card = partial(write_card, repo_id=repo_id, metrics=metrics, run=run, **asdict(origin))
        try:
            card(staging)
        except (KeyError, TypeError, AttributeError, TemplateError) as error:
            raise ValueError(
                f"metrics.json or training_args.json is not as training leaves it, remove it ({error!r})."
            ) from error
        demand(iterate_checks(staging, trust_remote_code))
    except (ValueError, OSError) as error:
        raise PublishError(f"{model_dir}: {error}") from error
    return card


def check_demo(model_dir: str | Path) -> None:
    """Raises PublishError for a model without a demo page."""
    if listing_in(model_dir) is not CLASSIFICATION:
        raise PublishError(f"{model_dir} is an encoder: the demo shows labels, leave out --space.")


def listing_in(model_dir: str | Path) -> Listing:
    """What the model of a folder is for; the checks say what is wrong with a folder without a configuration."""
    return listing_of(_read(Path(model_dir) / CONFIG) or {})


def prepare_space(folder: Path, repo_id: str, sha: str) -> None:
    """Fills `folder` with the Space that shows commit `sha` of the model. Raises PublishError for a secret in it."""
    write_space(folder, repo_id, sha)
    findings = scan_secrets(folder)
    demand([Check("no secrets in the Space", not findings, "; ".join(findings) or "none found")])


def demand(checks: Iterable[Check]) -> None:
    """Prints every check; raises PublishError with those that failed."""
    failed = []
    for check in checks:
        print(check, flush=True)
        if not check.passed:
            failed.append(str(check))
    if failed:
        raise PublishError("\n".join(["not uploaded, these checks failed:", *failed]))


def images_in(folder: Path) -> list[Path]:
    """The first images of a folder, as many as golden outputs may have; [] where there is no such folder."""
    suffixes = readable_suffixes()
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if path.suffix.lower() in suffixes][:MAX_IMAGES]


def draw_images(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """Three pictures made of numbers, the same each time, somewhat larger than the model's input."""
    size = config.get("image_size", 224)  # a configuration without one is no business of this: the checks refuse it
    height, width = (round(1.5 * edge) for edge in ((size, size) if isinstance(size, int) else size))
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    rings = np.sin(40 * np.hypot(x - 0.5, y - 0.5)) / 2 + 0.5
    pictures = [
        np.stack([x, y, 1 - x], axis=-1),
        np.stack([rings, 1 - rings, x * rings], axis=-1),
        np.random.default_rng(0).random((height, width, 3)),
    ]  # each [H, W, 3] in 0..1
    paths = [folder / f"{i}.png" for i in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        image = Image.fromarray((255 * picture).round().astype(np.uint8))
        (image.convert("L") if config.get("num_channels") == 1 else image).save(path)
    return paths


def find_origin(
    model_dir: str | Path, license: str | None = None, datasets: Sequence[str] = (), base_model: str | None = None
) -> Origin:
    """What was given; what was not, from an earlier card in the folder, the base model also from its training.

    Raises PublishError without a licence: it decides what others may do.
    """
    card, record = Path(model_dir) / CARD, Path(model_dir) / RUN_FILE
    try:
        said = (metadata_load(card) if card.is_file() else None) or {}
        trained_from = (_read(record) or {}).get("model", {}).get("model_name_or_path", "")
    except (ValueError, AttributeError, YAMLError) as error:
        raise PublishError(f"{card} or {record.name} is damaged, remove it: {error}") from error
    license = license or said.get("license")
    if not license:
        raise PublishError("--license is missing: say what others may do, for example --license apache-2.0.")
    said_base, said_data = said.get("base_model"), said.get("datasets") or []
    if not base_model and isinstance(said_base, list):
        raise PublishError(f"{card} names {len(said_base)} base models: give the one it was made from by --base_model.")
    on_hub = "/" in trained_from and ":" not in trained_from
    base_model = base_model or said_base or (trained_from if on_hub else None)
    return Origin(license, list(datasets) or ([said_data] if isinstance(said_data, str) else said_data), base_model)


def _read(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def snippet(task: Listing, repo_id: str, sha: str) -> str:
    return (
        "from transformers import pipeline\n"
        f'{task.verb} = pipeline("{task.name}", model="{repo_id}", revision="{sha}", trust_remote_code=True)'
    )
