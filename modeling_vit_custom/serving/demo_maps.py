"""What `vit-custom demo` shows below an answer: where in the image the evidence lies, for one class or two.

A Space has no such part, because this package is not installed there. An explanation runs on a twin of the model, so
plain answers beside it are the same; without the tick, nothing is explained.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..explanation.live import LiveExplainer
from ..explanation.pictures.colours import coloured, scale_of
from ..explanation.pictures.drawing import alt_text
from ..explanation.pictures.panels import Drawn, Subject, overlay_panel, subject_of
from ..explanation.result import Explanation
from ..reporting.page import data_url
from ..tasks.classification_demo import Classifier, failure

SIDE = 448  # pixels of a map's longer side
ANSWER = -1  # for a class: the model's answer
NONE = -2
HINT = "Drop an image, or choose one, to see where the evidence for its label lies."
WORDS = (
    "A map shows where evidence lies, not what it is or why, and is worth as much as its measurement says: what hiding "
    "its most important patches does, beside random ones."
)
HATCHED = "Hatched: not confirmed, as replacing this patch alone does not lower the score."
_LITTLE = "This map explains little: "
_FIGURES = "display: flex; flex-wrap: wrap; gap: 14px; margin: 0 0 12px"


def maps_below(classifier: Classifier) -> tuple[list[Any], Callable[..., Any]]:
    """Add a tick, two choices of a class and the maps to the page that is being built; see `classification_demo.build`.

    Adds only a sentence to that of a model which cannot be explained by its gradients.
    """
    import gradio as gr

    try:
        explainer = LiveExplainer(classifier.model, classifier.processor)
    except ValueError as error:
        gr.HTML(f'<p class="hint">No maps of this model. {escape(str(error))}</p>')
        return [], lambda *answered: None
    classes = [(label, number) for number, label in enumerate(classifier.labels)]
    source = gr.State()
    tick = gr.Checkbox(label="Show where the evidence lies", value=False, container=False, elem_id="tick")
    with gr.Row(visible=False) as choices:
        first = gr.Dropdown([("the answer", ANSWER), *classes], value=ANSWER, label="Evidence for", min_width=220)
        second = gr.Dropdown([("no second class", NONE), *classes], value=NONE, label="Beside it", min_width=220)
    maps = gr.HTML("", elem_id="maps")

    def show(source: str | torch.Tensor | None, wanted: bool, first: int, second: int) -> str:
        return maps_of(classifier, explainer, source, first, second) if wanted else ""

    asked: dict[str, Any] = {"inputs": [source, tick, first, second], "outputs": maps, "api_visibility": "private"}
    asked["concurrency_id"] = "maps"
    tick.change(lambda wanted: gr.Row(visible=wanted), tick, choices, api_visibility="private")
    for part in (tick, first, second):
        part.change(show, **asked)
    return [source], lambda *answered: [event.then(show, **asked) for event in answered]


def maps_of(
    classifier: Classifier, explainer: LiveExplainer, source: str | torch.Tensor | None, first: int, second: int = NONE
) -> str:
    """Return HTML with the maps of an image on one scale.

    source: a file, or a drawn picture [C, H, W]; None gives a hint.   first: id of a class, or ANSWER.   second: of
    another, or NONE.
    """
    if source is None:
        return f'<div class="answer hint">{HINT}</div>'
    try:
        pixels = classifier.prepare(source).pixels
        found = [explainer(pixels, None if one == ANSWER else one) for one in (first, second) if one != NONE]
    except (ValueError, OSError) as error:
        return failure(str(error))
    return page_of(found)


def page_of(found: Sequence[Explanation]) -> str:
    """Return HTML with the maps of explanations of one image side by side, one for each class; all on one scale."""
    shown: dict[int, Drawn] = {}
    for each in found:
        for row, target in enumerate(each.target or ()):
            said = each.faithfulness[row]["sentence"] if each.faithfulness else ""
            shown.setdefault(target, replace(each.drawn(row), lines=[said, *each.remarks[row]]))
    maps = [*shown.values()]
    signed = any(one.signed for one in maps)
    scale = scale_of(*(one.grid for one in maps), signed=signed)
    subject = subject_of(found[0].photos[0], maps, (0, 0, *found[0].seen), SIDE, cells=False)
    figures = "".join(_figure(subject, one, scale) for one in maps)
    texts = [WORDS, *[HATCHED] * any(one.hatched(scale) for one in maps), *found[0].notes]
    words = "".join(f'<p class="hint">{escape(text)}</p>' for text in texts)
    return f"""<div class="answer"><div class="pictures" style="{_FIGURES}">{figures}</div>
{_bar(scale, signed)}{words}</div>"""


def _figure(subject: Subject, drawn: Drawn, scale: float) -> str:
    words = "".join(f'<div style="margin-top: 4px">{escape(line)}</div>' for line in drawn.lines if line)
    if drawn.little:
        words += (
            f'<div class="notes" style="margin-top: 6px"><span class="warning" style="border-radius: 8px">{_LITTLE}'
        )
        words += f"{escape(drawn.little)}</span></div>"
    picture = data_url(overlay_panel(subject, drawn, scale), "png")
    return f"""<figure style="flex: 1 1 130px; max-width: 340px">
<img class="photo" src="{picture}" alt="{escape(alt_text(drawn))}">
<figcaption><b>{escape(drawn.title)}</b>{words}</figcaption></figure>"""


def _bar(scale: float, signed: bool) -> str:
    """The colours of the scale, with its ends in words."""
    if scale <= 0:
        return '<p class="hint">No evidence above 0.</p>'
    colours = coloured(np.linspace(-1 if signed else 0, 1, 256)[None], signed).round().astype(np.uint8)
    low, high = ("against", "for") if signed else ("none", "most")
    bar = data_url(Image.fromarray(colours), "png")
    return f"""<div class="hint" style="display: flex; gap: 10px; align-items: center"><span>{low}</span>
<img src="{bar}" alt="" style="flex: 1; min-width: 0; height: 10px; border-radius: 5px">
<span>{high} evidence</span></div>"""
