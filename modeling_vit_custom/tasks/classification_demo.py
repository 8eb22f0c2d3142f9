"""A page to try out a saved image classifier: `vit-custom demo` and, copied as app.py, a Space.

The file imports no module of its package, so that a copy of it works as a Space, where it reads model.json beside it,
{"model": Hub id, "revision": commit}; on the command line both are flags. An uploaded file reaches the model's own
decoder unchanged. This process serves the whole page, fonts included, and reports to no one.

Shapes: B batch, C channels, H, W of the picture, h, w of the model's input, K labels or targets.
"""

import argparse
import base64
import csv
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from PIL import Image, UnidentifiedImageError
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedConfig
from transformers.image_processing_base import ImageProcessingMixin

TOP_K, BATCH_SIZE = 5, 16
MAX_FILE_SIZE = "20mb"
MAX_FILES = 200  # of one upload
SETTINGS = Path(__file__).with_name("model.json")
COLUMNS = ["file", "label", "score", "unknown", "error"]
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that begins so
ORIENTATION = 0x0112  # EXIF tag
CSS = """
.gradio-container { width: 100%; max-width: 1080px !important; margin: 0 auto; }
.gradio-container .html-container { padding: 0; } footer { display: none !important; }
#drop, #drop-many { border: 1px dashed var(--border-color-accent) !important; }
#head h1 { font-size: 1.7rem; font-weight: 650; margin: .4rem 0 0; overflow-wrap: anywhere; }
#head p, .answer figcaption, .hint { color: var(--body-text-color-subdued); font-size: .9rem; margin: .15rem 0; }
#examples, #examples .grid-wrap { min-height: 0; padding: 0; }
#examples .grid-container { grid: auto-flow 64px / repeat(auto-fill, 64px); gap: 8px; padding: 0; }
#examples .gallery-item, #examples button, #examples img { height: 64px; min-height: 0; }
.answer { background: var(--block-background-fill); border: 1px solid var(--border-color-primary);
  border-radius: var(--block-radius); padding: 18px 20px; } .bars > :nth-child(3n) { text-align: right; }
.answer.failed { border-left: 4px solid #dc2626; overflow-wrap: anywhere; }
.answer h2 { font-size: 1.6rem; font-weight: 650; margin: 0 0 10px; overflow-wrap: anywhere; }
.bars { display: grid; grid-template-columns: minmax(3ch, max-content) 1fr max-content; gap: 7px 12px;
  align-items: center; font-variant-numeric: tabular-nums; }
.bars > :nth-child(3n+1) { max-width: min(16ch, 26vw); overflow-wrap: anywhere; }
.bars i { height: 12px; border-radius: 6px; background: var(--border-color-primary); overflow: hidden; }
.bars i::before { content: ""; display: block; height: 100%; width: var(--share); border-radius: 6px;
  background: var(--color-accent); } .pictures { display: flex; gap: 14px; margin: 18px 0 12px; }
.pictures figure { flex: 1 1 0; margin: 0; min-width: 0; } .pictures img.photo { image-rendering: auto; }
.pictures img { width: 100%; aspect-ratio: 4 / 3; object-fit: contain; image-rendering: pixelated; border-radius: 8px;
  border: 1px solid var(--border-color-primary); background: var(--background-fill-secondary); }
.pictures figcaption { overflow-wrap: anywhere; } .pictures b { color: var(--body-text-color); font-weight: 600; }
.notes span { display: inline-block; margin: 0 6px 6px 0; padding: 2px 10px; border-radius: 99px; font-size: .85rem;
  border: 1px solid var(--border-color-primary); background: var(--background-fill-secondary); }
.notes span.warning { border-color: #d97706; color: #b45309; } .dark .notes span.warning { color: #fbbf24; }
.answer table { width: 100%; border-collapse: collapse; margin-top: 14px; font-size: .92rem; table-layout: fixed; }
.answer :is(table, thead, tbody, tr, th, td) { border: 0 !important; }
.answer :is(th, td) { text-align: left; padding: 6px 10px 6px 0 !important; vertical-align: top;
  border-bottom: 1px solid var(--border-color-primary) !important; overflow-wrap: anywhere; }
.answer th:last-child { width: 5.5em; } .answer td.error { color: #dc2626; } .dark .answer td.error { color: #f87171; }
.answer .csv { display: inline-block; margin-left: 10px; padding: 5px 14px; border-radius: 8px; font-weight: 600;
  text-decoration: none; color: white; background: var(--color-accent); }
"""
# The formats of the image processor.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "JPEG2000", "QOI", "AVIF", "HEIF", "JXL")
DRAWN_NOTE = "drawn, so that you can try the page: it is of no class, whatever the model says"
UNKNOWN_NOTE = "unknown: not typical of any class; the scores only say which class is the least unlike"
EMPTY = '<div class="answer hint">The prediction appears here.</div>'


@dataclass(frozen=True)
class Prepared:
    """A preprocessed image: decoded [C, H, W] uint8, pixels [C, h, w] float32, notes, milliseconds taken."""

    decoded: torch.Tensor
    pixels: torch.Tensor
    notes: list[str]
    milliseconds: float


class Classifier:
    """A saved model with its processor, ready to run."""

    def __init__(self, source: str, revision: str | None = None):
        """Raises ValueError for a source that is neither a folder nor a Hub id with a commit, that names code of
        another repository, or that lacks weights or labels; RuntimeError and StrictDataclassError for a damaged one."""
        self.folder = fetch(source, revision)
        refuse_other_code(self.folder)
        self.model, info = AutoModelForImageClassification.from_pretrained(
            self.folder, trust_remote_code=True, use_safetensors=True, output_loading_info=True
        )
        if missing := sorted(info["missing_keys"]):
            raise ValueError(f"{source} lacks the weights {', '.join(missing[:3])}: they would be random.")
        if not self.model.config.id2label:
            raise ValueError(f"{source} has no labels (num_labels=0); give a model with a classifier.")
        self.processor = AutoImageProcessor.from_pretrained(self.folder, trust_remote_code=True)
        if not hasattr(self.processor, "decode"):
            raise ValueError(f"{source}: {type(self.processor).__name__} has no decode(); give a ViT Custom model.")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.eval().to(self.device)
        config = self.model.config
        self.size: tuple[int, int] = np.broadcast_to(config.image_size, 2).tolist()
        self.labels = [config.id2label[i] for i in range(len(config.id2label))]
        self.task = config.problem_type or ("regression" if len(self.labels) == 1 else "single_label_classification")
        self.scores(torch.zeros(1, config.num_channels, *self.size))  # the first run is slow
        self.name, self.revision = source if revision else self.folder.resolve().name, revision

    def prepare(self, source: str | torch.Tensor) -> Prepared:
        """Decode and preprocess a file, or a drawn picture. Raises ValueError or OSError if it is no usable image."""
        started = time.perf_counter()
        decoded = self.processor.decode(source, name=Path(source).name) if isinstance(source, str) else source
        pixels = self.processor(decoded, return_tensors="pt", input_data_format="channels_first")["pixel_values"][0]
        notes = header_notes(source, len(decoded)) if isinstance(source, str) else [DRAWN_NOTE]
        return Prepared(decoded, pixels, notes, 1000 * (time.perf_counter() - started))

    def scores(self, pixels: torch.Tensor) -> list[tuple[list[float], bool]]:
        """Return for each of pixels [B, C, h, w] (its K probabilities or values, whether it is unknown)."""
        with torch.inference_mode():
            output = self.model(pixel_values=pixels.to(self.device, self.model.dtype))
        logits, unknown = output.logits.float(), output.get("unknown")
        if self.task == "multi_label_classification":
            logits = logits.sigmoid()
        elif self.task != "regression":
            logits = logits.softmax(dim=-1)
        return list(zip(logits.tolist(), [False] * len(pixels) if unknown is None else unknown.tolist(), strict=True))

    def model_view(self, pixels: torch.Tensor) -> Image.Image:
        """Return the model's input [C, h, w] as an image of h x w, with normalisation undone."""
        values = pixels.double().cpu()
        if self.processor.do_normalize:
            of = self.processor
            mean, std = (torch.tensor(v).double().view(-1, 1, 1) for v in (of.image_mean, of.image_std))
            values = values * std + mean
        if self.processor.do_rescale:
            values = values / self.processor.rescale_factor
        return picture(values.round().clamp(0, 255).to(torch.uint8))


def fetch(source: str, revision: str | None) -> Path:
    """Return the folder of a saved model; a Hub id is downloaded at a commit only, since its code will run here."""
    if revision is None and Path(source).is_dir():
        return Path(source)
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise ValueError(
            f"{source} is not a folder here. If it is a Hub id, its code will run: name the commit that you have read "
            f"by --revision, 40 characters, not {revision!r}."
        )
    parts = ["*.json", "*.py", "*.safetensors", "examples/*"]
    return Path(snapshot_download(source, revision=revision, allow_patterns=parts))


def refuse_other_code(folder: Path) -> None:
    """Raise ValueError for another kind of model, or if `--` in an auto_map names another repository's newest code."""
    config, _ = PreTrainedConfig.get_config_dict(folder)
    processor, _ = ImageProcessingMixin.get_image_processor_dict(folder)
    if (kind := config.get("model_type")) != "vit_custom":  # other kinds can name kernels to download
        raise ValueError(f"{folder}: model_type={kind!r} has no decode(); give a ViT Custom model.")
    if named := re.search(r'"([^"]*--[^"]*)"', json.dumps([config.get("auto_map"), processor.get("auto_map")])):
        raise ValueError(
            f"{folder}: its auto_map names {named[1]}, code of another repository, which nobody here has read. Copy "
            "that code into the folder and drop what stands before '--'."
        )


def picture(decoded: torch.Tensor) -> Image.Image:
    """Return an image of the first three channels of [C, H, W] uint8; with fewer than three, the first in grey."""
    array = decoded.numpy()
    return Image.fromarray(array[0] if len(array) < 3 else np.ascontiguousarray(np.moveaxis(array[:3], 0, -1)))


def drawn_pictures(height: int, width: int, channels: int) -> list[torch.Tensor]:
    """Return three drawn pictures [C, H, W] uint8, those that `publish` puts into examples/ if no images are given."""
    y, x = np.mgrid[0 : 1 : round(1.5 * height) * 1j, 0 : 1 : round(1.5 * width) * 1j]
    rings, noise = np.sin(40 * np.hypot(x - 0.5, y - 0.5)) / 2 + 0.5, np.random.default_rng(0).random((*x.shape, 3))
    made = np.stack([np.stack([x, y, 1 - x], -1), np.stack([rings, 1 - rings, x * rings], -1), noise])
    found = []
    for rgb in (255 * made).round().astype(np.uint8):
        own = {1: [np.asarray(Image.fromarray(rgb).convert("L"))], 3: [*np.moveaxis(rgb, -1, 0)]}.get(channels)
        found.append(torch.tensor(np.stack(own or [np.flip(rgb[..., i % 3], i // 3 % 2) for i in range(channels)])))
    return found


def example_of(path: str, decoded: torch.Tensor, drawn: Sequence[torch.Tensor]) -> str | torch.Tensor:
    """Return `path`, or the drawn picture that the file holds, in whatever size."""
    small = torch.nn.AdaptiveAvgPool2d(32)
    return next((one for one in drawn if (small(one.float()) - small(decoded.float())).abs().mean() < 2), path)


def header_notes(path: str, channels: int) -> list[str]:
    """Return notes for the viewer on how a readable file became pixels.   channels: of the model."""
    if channels not in (1, 3):
        return [f"shown: {'channels 1 to 3, as colours,' if channels > 3 else 'channel 1'} of {channels}"]
    with suppress(UnidentifiedImageError), Image.open(path, formats=[*filter(Image.OPEN.get, FORMATS)]) as image:
        frames = getattr(image, "n_frames", 1)
        said = (
            (frames > 1, f"the first of {frames} frames"),
            (image.getexif().get(ORIENTATION, 1) in range(2, 9), "turned upright by its EXIF orientation"),
            (image.has_transparency_data, "transparent parts filled with the background colour"),
            (image.mode == "I" or image.mode.startswith("I;16"), "16 bits a pixel, scaled to 8"),
            (max(image.size) >= 4 * min(image.size), "very long: squeezed a lot"),
        )
        return [text for applies, text in said if applies]
    return []


def ranked(classifier: Classifier, scores: Sequence[float]) -> list[dict[str, Any]]:
    """Return the TOP_K best labels with their scores; for a regression, all targets in order with their values."""
    if classifier.task == "regression":
        return [{"label": name, "value": value} for name, value in zip(classifier.labels, scores, strict=True)]
    best = sorted(zip(classifier.labels, scores, strict=True), key=lambda pair: -pair[1])[:TOP_K]
    return [{"label": name, "score": score} for name, score in best]


def classify(classifier: Classifier, source: str | torch.Tensor) -> tuple[dict[str, Any], str]:
    """Return (result, the same as HTML); for a file that is not a usable image, the result has an "error"."""
    name = Path(source).name if isinstance(source, str) else "a drawn picture"
    try:
        image = classifier.prepare(source)
    except (ValueError, OSError) as error:
        return {"file": name, "error": str(error)}, failure(str(error))
    started = time.perf_counter()
    ((scores, unknown),) = classifier.scores(image.pixels[None])
    found: dict[str, Any] = {"file": name, "predictions": ranked(classifier, scores)}
    found["notes"] = image.notes + [UNKNOWN_NOTE] * unknown
    took = 1000 * (time.perf_counter() - started)
    found |= {"preprocess_ms": round(image.milliseconds, 2), "model_ms": round(took, 2)}
    return found, answer(found, image.decoded, classifier.model_view(image.pixels), str(classifier.device))


def classify_many(classifier: Classifier, paths: Sequence[str], progress: Any = None) -> list[dict[str, Any]]:
    """Return one row of COLUMNS for each file, in order; an unreadable file gets its error and stops nothing."""
    rows: list[dict[str, Any]] = [dict.fromkeys(COLUMNS, "") | {"file": Path(path).name} for path in paths]
    for start in range(0, len(paths), BATCH_SIZE):
        images: dict[int, Prepared] = {}
        for index in range(start, min(start + BATCH_SIZE, len(paths))):
            try:
                images[index] = classifier.prepare(paths[index])
            except (ValueError, OSError) as error:
                rows[index]["error"] = str(error)
        pixels = [image.pixels for image in images.values()]
        for index, found in zip(images, classifier.scores(torch.stack(pixels)) if pixels else [], strict=True):
            best, rows[index]["unknown"] = ranked(classifier, found[0]), "yes" * found[1]
            if classifier.task == "regression":
                rows[index]["label"] = ", ".join(f"{entry['label']} {entry['value']:.4g}" for entry in best)
            else:
                rows[index] |= {"label": best[0]["label"], "score": f"{best[0]['score']:.4f}"}
        if progress is not None:
            progress((min(start + BATCH_SIZE, len(paths)), len(paths)), unit="images")
    return rows


# ---------- HTML; everything that comes from outside is escaped


def data_url(image: Image.Image) -> str:
    stream = BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def failure(message: str) -> str:
    return f'<div class="answer failed" role="alert">{escape(message)}</div>'


def answer(found: dict[str, Any], decoded: torch.Tensor, view: Image.Image, device: str) -> str:
    """Return HTML with the labels as bars, the file upright, the model's input pixel by pixel, notes and times."""
    whole, shown = picture(decoded), picture(decoded)
    shown.thumbnail((640, 640))
    smooth = ' class="photo"' if max(whole.size) > 128 else ""
    bars = "".join(
        f"<span>{escape(entry['label'])}</span>"
        + (
            f'<i style="--share: {entry["score"]:.2%}"></i><span>{entry["score"]:.1%}</span>'
            if "score" in entry
            else f"<span></span><span>{entry['value']:.4g}</span>"
        )
        for entry in found["predictions"]
    )
    best = found["predictions"][0]
    title = "Not a photograph" if DRAWN_NOTE in found["notes"] else best["label"] if "score" in best else ""
    title = "Unknown" if UNKNOWN_NOTE in found["notes"] else title
    notes = "".join(f'<span class="warning">{escape(note)}</span>' for note in found["notes"])
    return f"""<div class="answer">{f"<h2>{escape(title)}</h2>" if title else ""}<div class="bars">{bars}</div>
<div class="pictures">
<figure><img src="{data_url(shown)}" alt="the image, decoded"{smooth}>
<figcaption><b>{escape(found["file"])}</b>, {whole.width}&nbsp;×&nbsp;{whole.height}</figcaption></figure>
<figure><img id="model-view" src="{data_url(view)}" alt="what the model is given">
<figcaption><b>What the model sees</b>, {view.width}&nbsp;×&nbsp;{view.height}</figcaption></figure></div>
<div class="notes">{notes}<span>preprocessing {found["preprocess_ms"]:.1f} ms</span>
<span>model {found["model_ms"]:.1f} ms on {escape(device)}</span></div></div>"""


def answers(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as an HTML table and a CSV link; a quote precedes text that a spreadsheet would run."""
    text = StringIO()
    cells = ([f"'{cell}" if str(cell).startswith(FORMULA) else cell for cell in row.values()] for row in rows)
    csv.writer(text).writerows([COLUMNS, *cells])
    file = base64.b64encode(text.getvalue().encode("utf-8", "replace")).decode()
    body = "".join(
        f"<tr><td>{escape(row['file'])}</td>"
        + (
            f'<td class="error" colspan="2">{escape(row["error"])}</td></tr>'
            if row["error"]
            else f"<td>{'unknown, ' * bool(row['unknown'])}{escape(row['label'])}</td><td>{row['score']}</td></tr>"
        )
        for row in rows
    )
    return f"""<div class="answer">{len(rows)} files, {sum(bool(row["error"]) for row in rows)} of them unreadable.
<a class="csv" download="predictions.csv" href="data:text/csv;charset=utf-8;base64,{file}">Download CSV</a>
<table><thead><tr><th>file</th><th>label</th><th>score</th></tr></thead><tbody>{body}</tbody></table></div>"""


def refuse_addresses(file: Any) -> None:
    """Make a gr.File accept uploads only: from an address, Gradio would download a file of any size."""
    take = file.async_move_resource_to_block_cache

    async def take_upload(path: str | Path | None) -> str | None:
        if "://" in str(path):
            raise ValueError(f"{path} is an address: download it and upload the file.")
        return await take(path)

    file.async_move_resource_to_block_cache = take_upload


def without_addresses(app: Any) -> Any:
    """Wrap the ASGI app to refuse paths such as `file=http://…`: Gradio would fetch and pass on any address."""

    async def refuse_or_pass(scope: Any, receive: Any, send: Any) -> None:
        if "://" not in scope.get("path", ""):
            return await app(scope, receive, send)
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    return refuse_or_pass


def build(classifier: Classifier, below: Callable[[Classifier], Any] | None = None) -> Any:
    """Return the gr.Blocks of a classifier; under the drop zone it offers its folder's examples/, or drawn pictures.

    below: adds what the whole package can show below an answer; returns ([gr.State of its image], what follows it).
    """
    import gradio as gr

    config = classifier.model.config
    paths = sorted(str(path) for path in (classifier.folder / "examples").glob("*") if path.is_file())
    drawn, decoded = drawn_pictures(*classifier.size, config.num_channels), [*map(classifier.processor.decode, paths)]
    examples = [example_of(path, one, drawn) for path, one in zip(paths, decoded, strict=True)] or drawn
    what = "these" if any(isinstance(one, str) for one in examples) else "these, which are drawn, not photographs"
    facts = [
        f"{len(classifier.labels)} labels",
        f"{classifier.size[1]} × {classifier.size[0]} pixels",
        {1: "grey", 3: "colour"}.get(config.num_channels, f"{config.num_channels} channels"),
        f"{sum(p.numel() for p in classifier.model.parameters()) / 1e6:.2g} million parameters",
        *([f"revision {classifier.revision[:12]}"] if classifier.revision else []),
    ]

    def one(path: str | None):
        found, html = classify(classifier, path) if path else (None, EMPTY)
        source = path if found and "error" not in found else None
        return {data: found, shown: html, file: None, **dict.fromkeys(kept, source)}  # the drop zone is free again

    def example(event: gr.SelectData):
        source = examples[event.index]
        return {shown: classify(classifier, source)[1], **dict.fromkeys(kept, source)}

    def many(paths: list[str] | None, progress: Any = gr.Progress()):  # noqa: B008 - Gradio looks for it there
        if not paths:
            return [], EMPTY
        if len(paths) > MAX_FILES:
            return [], failure(f"{len(paths)} files: give at most {MAX_FILES} at a time, or use `vit-custom predict`.")
        return (rows := classify_many(classifier, paths, progress)), answers(rows)

    with gr.Blocks(title=classifier.name, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        data = gr.JSON(visible=False)  # the output for callers of the API
        gr.HTML(f"<h1>{escape(classifier.name)}</h1><p>{escape(' · '.join(facts))}</p>", elem_id="head")
        with gr.Tab("One image"), gr.Row():
            with gr.Column(scale=2, min_width=280):
                file = gr.File(label="Drop an image", height=170, elem_id="drop")
                gr.HTML(f'<p class="hint">or try one of {what}</p>')
                gallery = gr.Gallery(
                    [*map(picture, decoded or drawn)], show_label=False, allow_preview=False, buttons=[],
                    interactive=False, container=False, height="auto", elem_id="examples",
                )  # fmt: skip
            with gr.Column(scale=3, min_width=280):
                shown = gr.HTML(EMPTY, elem_id="one")
                kept, follow = below(classifier) if below else ([], lambda *answered: None)
            uploaded = file.upload(one, file, [data, shown, file, *kept], api_name="classify")
            follow(uploaded, gallery.select(example, None, [shown, *kept], api_visibility="private"))
        with gr.Tab("Several images"):
            drop = f"Drop up to {MAX_FILES} images"
            files = gr.File(label=drop, file_count="multiple", height=170, elem_id="drop-many")
            table = gr.HTML(EMPTY, elem_id="many")
            files.change(many, files, [data, table], api_name="classify_many")
        refuse_addresses(file)
        refuse_addresses(files)
    return page.queue(max_size=32, default_concurrency_limit=1)


def launch(classifier: Classifier, host: str | None = None, port: int | None = None, below: Any = None, **options: Any):
    """Serve the page; return what `gr.Blocks.launch` returns. Default host: this machine only, in a Space everyone."""
    import gradio as gr

    font, font_mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    os.environ.setdefault("VIT_CUSTOM_MAX_PIXELS", "")  # its errors then do not advise to raise a limit
    return build(classifier, below).launch(
        theme=gr.themes.Soft(primary_hue="teal", neutral_hue="slate", font=font, font_mono=font_mono), footer_links=[],
        server_name=host, server_port=port, share=False, ssr_mode=False, max_file_size=MAX_FILE_SIZE, allowed_paths=[],
        css=CSS, app_kwargs={"middleware": [(without_addresses, (), {})]}, **options,
    )  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo", description="Try a saved classifier in the browser; its code runs.")
    parser.add_argument("--model", required=not SETTINGS.is_file(), help="saved folder, or a Hub id")
    parser.add_argument("--revision", help="commit of a Hub id, 40 characters")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine only)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    return parser


def main(argv: Sequence[str] | None = None, below: Any = None) -> int:
    """Run the command; return its exit code: 0 if closed by Ctrl-C, 2 if the page could not be opened as asked."""
    args = build_parser().parse_args(argv)
    chosen = json.loads(SETTINGS.read_text(encoding="utf-8")) if args.model is None else vars(args)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if find_spec("gradio") is None:
        print("demo: the page needs Gradio. Fix: pip install 'vit-custom[demo]'", file=sys.stderr)
        return 2
    try:
        launch(Classifier(chosen["model"], chosen["revision"]), args.host, args.port, below)
    except (ValueError, OSError, RuntimeError, StrictDataclassError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
