"""Publication of a trained folder on the Hub: `vit-custom publish`.

The steps in order: stage (copy the files of an allow-list), golden outputs, model card, checks, upload. All files go up
in one commit, so that no revision holds half a model. A commit cannot contain its own hash: a second commit, of the
card alone, writes the hash of the first into the card's snippet.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import metadata_load
from yaml import YAMLError

from .._version import __version__
from ..common.claims import check_claims
from ..common.json_files import read_json
from ..common.model_files import CARD, CONFIG, CONVERSION, EXPLANATION, METRICS, RUN_FILE, SPEEDS
from ..data.folders import readable_suffixes
from ..tasks.classification_demo import drawn_pictures, picture
from ..tasks.hub import Listing, listing_of
from .as_library import as_library, compare_with_original
from .checks import iterate_checks
from .code_files import foreign_code
from .forms import TIMM, form_in
from .golden import MAX_IMAGES, write_golden
from .image_index import include_index
from .report import Check
from .secrets import scan_secrets
from .space import write_space
from .staging import stage
from .upload import PublishError, Repository, check_installed, check_target, commit_holding, explained, upload_folder


@dataclass(frozen=True)
class Origin:
    """Facts for the card that the model's files do not hold, as identifiers of the Hub."""

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
    library: str | None = None,
    index: str | Path | None = None,
) -> str:
    """Publish a saved classifier or encoder; return the 40-hex sha of the commit that holds model and code.

    revision: the branch, created if missing (default: main).   examples: images for the golden outputs, published with
    them. By default those in `model_dir`/examples are used, or else drawn ones: no photograph goes up unasked. space:
    also publish the demo, as a Space of the same name.   trust_remote_code: run code of the folder that is not this
    package's, in a fresh process.   replace: delete the branch's other files. Without it they stay, and nothing is
    uploaded if one of them would be false or unsafe beside this model.   library: "hf" or "timm" publishes it as a
    model of transformers or timm, without code; None: with its own code.   index: an index that this model made, which
    then becomes public too, see `include_index`.   Raises PublishError; nothing has been uploaded then, unless the
    message says so.
    """
    check_target(repo_id, revision)
    if space:
        check_demo(model_dir, library)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        card = prepare(model_dir, folder, repo_id, origin, examples, trust_remote_code, library, index)
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
    """Upload the folder that `prepare` has filled, then the card that pins the commit; return the pinned sha."""
    sha = commit_holding(folder, repo_id, revision=revision, except_for=CARD, replace=replace)
    how: dict[str, Any] = {"private": private, "replace": replace}
    if sha is None:
        message = message or f"Publish with ViT Custom {__version__}"
        sha = upload_folder(folder, repo_id, revision=revision, message=message, **how)
    card(folder, revision=sha)
    try:
        upload_folder(folder, repo_id, revision=revision, message=f"Card: pin {sha[:12]}", **how)
        if space:
            with tempfile.TemporaryDirectory() as demo:
                prepare_space(Path(demo), repo_id, sha, listing_in(folder))
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
    library: str | None = None,
    index: str | Path | None = None,
) -> Callable[..., Path]:
    """Fill `staging` with all files to publish, and check it.   library, index: as in `publish`.

    Returns `write_card` bound to this model: called with the folder and a revision, it writes the card that pins the
    revision. Raises PublishError, which lists all failed checks if there are any.
    """
    check_installed()
    from jinja2 import TemplateError

    from .card import write_card

    try:
        listing_in(model_dir).refuse_dense("this")
        if index is not None and library is not None:
            raise ValueError("--include_index belongs to a model with its own code: leave out one of the two.")
        with as_library(Path(model_dir), library) as source:
            _demand_own(source, library)
            stage(source, staging)
        check_claims(staging, (METRICS, RUN_FILE, CONVERSION, SPEEDS, EXPLANATION))
        if (staging / CARD).exists():
            print(f"{CARD} is written again; of the one in {model_dir} only license, datasets and base_model are kept")
        if (foreign := foreign_code(staging)) and not trust_remote_code:
            raise PublishError(
                f"{', '.join(foreign)}: not this package's code. Read it, then pass --trust_remote_code."
            )
        metrics, run = (_read(staging / name) for name in (METRICS, RUN_FILE))
        with tempfile.TemporaryDirectory() as drawn:
            images = [Path(image) for image in examples] or images_in(Path(model_dir) / "examples")
            print(f"example images, to be published: {', '.join(map(str, images)) or 'drawn ones, no photographs'}")
            made = [] if images else draw_images(Path(drawn), _read(Path(model_dir) / CONFIG) or {})
            write_golden(staging, images or made, drawn=bool(made))
        if index is not None:
            print(include_index(index, staging, repo_id, trust_remote_code))
        if library is not None:
            demand([compare_with_original(Path(model_dir), staging)])
        facts = {"metrics": metrics, "run": run, "described_by": model_dir, **asdict(origin)}
        card = partial(write_card, repo_id=repo_id, **facts)
        try:
            card(staging)
        except (KeyError, TypeError, AttributeError, TemplateError) as error:
            raise ValueError(
                f"metrics.json or training_args.json is not as training leaves it, remove it ({error!r})."
            ) from error
        demand(iterate_checks(staging, trust_remote_code))
    except (ValueError, OSError) as error:
        as_what = f", --as {library}" if library else ""
        raise PublishError(f"{model_dir}{as_what}: {error}") from error
    except ImportError as error:
        if library is None:
            raise
        raise PublishError(f"--as {library}: {error}; pip install 'vit-custom[convert]'.") from error
    return card


def _demand_own(folder: Path, library: str | None) -> None:
    """Raise ValueError for a model of another library that was not made just now: its card would know nothing of it."""
    if library is None and not (form := form_in(folder)).has_code:
        raise ValueError(
            f"this is a model of {form.library}: give the folder of ours that it was made from, with --as {form.name}."
        )


def check_demo(model_dir: str | Path, library: str | None = None) -> None:
    """Raise PublishError for a model without a demo page, and for one that is published as another library's."""
    if library is not None:
        raise PublishError(f"--space shows a model with its own code: leave it out with --as {library}.")
    if listing_in(model_dir).demo is None:
        raise PublishError(f"{model_dir} is an encoder: the demo shows labels, leave out --space.")


def listing_in(model_dir: str | Path) -> Listing:
    """Return the `Listing` of the model in a folder.

    Without config.json it is the one of classifiers; the checks report the missing file.
    """
    return listing_of(_read(Path(model_dir) / CONFIG) or {})


def prepare_space(folder: Path, repo_id: str, sha: str, listing: Listing) -> None:
    """Fill `folder` with the Space for commit `sha` of the model. Raises PublishError for a secret in it."""
    write_space(folder, repo_id, sha, listing)
    findings = scan_secrets(folder)
    demand([Check("no secrets in the Space", not findings, "; ".join(findings) or "none found")])


def demand(checks: Iterable[Check]) -> None:
    """Print every check. Raises PublishError with the failed ones, if there are any."""
    failed = []
    for check in checks:
        print(check, flush=True)
        if not check.passed:
            failed.append(str(check))
    if failed:
        raise PublishError("\n".join(["not uploaded, these checks failed:", *failed]))


def images_in(folder: Path) -> list[Path]:
    """Return the first images of a folder, at most MAX_IMAGES; [] if the folder does not exist."""
    suffixes = readable_suffixes()
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if path.suffix.lower() in suffixes][:MAX_IMAGES]


def draw_images(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """Write the demo's three drawn pictures, the same each time, 1.5 times as large as the model's input.

    Returns their paths: PNG or, for a model of neither 1 nor 3 channels, .npy with its number of channels. There
    channel i is colour i mod 3, flipped: channels 0 to 2 vertically, 3 to 5 horizontally, and so on in turn.
    """
    size = config.get("image_size", 224)  # the checks refuse a configuration without image_size
    height, width = (size, size) if isinstance(size, int) else size
    channels = config.get("num_channels", 3)
    paths = [folder / f"{i}.{'png' if channels in (1, 3) else 'npy'}" for i in range(3)]
    for path, drawn in zip(paths, drawn_pictures(height, width, channels), strict=True):
        if channels in (1, 3):
            picture(drawn).save(path)
        else:
            np.save(path, drawn.numpy())
    return paths


def find_origin(
    model_dir: str | Path, license: str | None = None, datasets: Sequence[str] = (), base_model: str | None = None
) -> Origin:
    """Return license, datasets and base model: as given, else from an earlier card in the folder.

    The base model can also come from the record of its training. Raises PublishError without a license, since it
    decides what others may do, for a damaged card or record, and for a card that names several base models.
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


def snippet(task: Listing, repo_id: str, sha: str, library: str | None = None) -> str:
    """Return the lines that load a published model.   library: as in `publish`."""
    if library == TIMM.name:
        return f'import timm\nmodel = timm.create_model("hf_hub:{repo_id}@{sha}", pretrained=True).eval()'
    trust = "" if library else ", trust_remote_code=True"
    return (
        "from transformers import pipeline\n"
        f'{task.verb} = pipeline("{task.name}", model="{repo_id}", revision="{sha}"{trust})'
    )
