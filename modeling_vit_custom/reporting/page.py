"""An HTML page in one file: it loads nothing else, and no text in it can make it run code.

Jinja2's autoescape escapes every text, after `visible`. In addition, the page's Content-Security-Policy allows no
script, or only the script of this package whose hash it names. Templates are named by their path in this package, such
as "audit/page.html.j2".
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
from ..image_arrays_vit_custom import first_three
from ..image_decoding_vit_custom import ImageDecodingError, decode_image

THUMBNAIL_SIDE = 96  # pixels
SCRIPT = Path(__file__).with_name("page.js")
PACKAGE = __name__.partition(".")[0]


def write_page(path: str | Path, template: str, content: Mapping[str, Any]) -> Path:
    """Render `template` to `path` and return `path`; the file is written whole or not at all."""
    return write_whole(path, render(template, content))


def render(template: str, content: Mapping[str, Any]) -> str:
    """Return the page that `template` makes of `content`."""
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
    return environment.get_template(template).render(content)


def _shown(value: Any) -> Any:
    """The value as Jinja2 gets it before escaping; text passes through `visible`."""
    return visible(value) if type(value) is str else value


def thumbnail(source: Any) -> str:
    """Return an image of at most THUMBNAIL_SIDE pixels a side as a data: URL; "" if it cannot be decoded."""
    image = small_picture(source, THUMBNAIL_SIDE)
    return "" if image is None else data_url(image, "png" if max(image.size) <= 32 else "jpeg")


def small_picture(source: Any, side: int) -> Image.Image | None:
    """Return an image of at most `side` pixels a side in RGB; None if it cannot be decoded.

    Of an array with more than three channels, the first three are shown as red, green and blue.
    """
    try:
        pixels = first_three(decode_image(source, num_channels=None).numpy())
    except ImageDecodingError:
        return None
    image = Image.merge("RGB", [Image.fromarray(band) for band in pixels])
    image.thumbnail((side, side), reducing_gap=3.0)
    return image


def data_url(image: Image.Image, kind: str) -> str:
    """Return an image as a data: URL.   kind: "png" or "jpeg"."""
    file = BytesIO()
    image.save(file, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
