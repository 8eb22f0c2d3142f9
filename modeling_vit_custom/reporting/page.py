"""A page in one file: nothing is fetched, nothing lies beside it, and no name in it can make it run anything.

Every text goes through Jinja2's autoescape after `visible`; besides, the page allows itself no script, or that one
script of ours whose hash it names. Templates are found by their path in this package, "audit/page.html.j2".
"""

import base64
import hashlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ..common.outputs import write_whole
from ..common.text import visible
from ..image_decoding_vit_custom import ImageDecodingError, decode_image

THUMBNAIL_SIDE = 96  # pixels
SCRIPT = Path(__file__).with_name("page.js")
PACKAGE = __name__.partition(".")[0]


def write_page(path: str | Path, template: str, content: Mapping[str, Any]) -> Path:
    """Renders `template` and returns `path`; the file is there whole or not at all."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader(PACKAGE, "."),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["script"] = script = Markup(SCRIPT.read_text(encoding="utf-8"))
    digest = hashlib.sha256(script.encode()).digest()
    environment.globals["script_hash"] = f"sha256-{base64.b64encode(digest).decode()}"
    return write_whole(path, environment.get_template(template).render(content))


def _shown(value: Any) -> Any:
    """What Jinja2 calls on each value before it escapes it."""
    return visible(value) if type(value) is str else value


def thumbnail(source: Any) -> str:
    """An image of THUMBNAIL_SIDE pixels as a data: address, or nothing for one that cannot be decoded."""
    try:
        pixels = decode_image(source).numpy()
    except ImageDecodingError:
        return ""
    image = Image.merge("RGB", [Image.fromarray(band) for band in pixels])
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), reducing_gap=3.0)
    kind = "png" if max(image.size) <= 32 else "jpeg"
    file = BytesIO()
    image.save(file, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
