"""A Space for a published model: the demo page as its app.py, and the model's id and commit."""

import re
import shutil
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import validate_repo_id

from ..common.json_files import write_json
from ..common.model_files import CARD
from ..tasks.hub import Listing

SETTINGS = "model.json"  # read by the page from its own folder
GRADIO = "6.31.0"  # the demo page is tested with this version
REQUIREMENTS = (  # imports of model and processor; the Space installs Gradio itself, by sdk_version
    "torch>=2.10",
    "torchvision>=0.25",
    "transformers>=5.10.1,<6",
    "safetensors>=0.6",
    "pillow>=12.3",
    "numpy>=1.26",
)


def write_space(folder: str | Path, repo_id: str, revision: str, listing: Listing) -> None:
    """Write app.py, model.json, requirements.txt and README.md of a Space for the model `repo_id` into `folder`.

    The page `listing.demo` loads the model, and runs its code, at `revision` only.
    Raises ValueError if `revision` is not a commit (40 hexadecimal characters), if `repo_id` cannot be a repository,
    and if there is no demo page.
    """
    if listing.demo is None:
        raise ValueError(f"{listing.name} has no demo page: leave the Space out.")
    validate_repo_id(repo_id)
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(f"revision={revision!r}: a Space runs the model's code; give its commit, 40 characters.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(listing.demo, folder / "app.py")
    write_json(folder / SETTINGS, {"model": repo_id, "revision": revision})
    (folder / "requirements.txt").write_text("\n".join(REQUIREMENTS) + "\n")
    name = repo_id.rpartition("/")[2]
    data = SpaceCardData(
        title=name,
        emoji="🔎",
        colorFrom="green",
        colorTo="blue",
        sdk="gradio",
        sdk_version=GRADIO,
        app_file="app.py",
        models=[repo_id],
        license="apache-2.0",
        short_description="Drop an image, see what the model sees",
    )
    url = f"https://huggingface.co/{repo_id}"
    text = (
        f"# {name}\n\nA page to try [{repo_id}]({url}) on, at its commit [`{revision[:12]}`]({url}/tree/{revision}).\n"
        "Drop an image: the five best labels, what the processor made of the image, and how long it took.\n\n"
        "```bash\n# the same on your own machine\n"
        f"pip install gradio=={GRADIO} -r requirements.txt\npython app.py\n```\n"
    )
    SpaceCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / CARD)
    if metadata_load(folder / CARD) != data.to_dict():
        raise ValueError(f"{folder / CARD}: the metadata did not come back as they were given.")
