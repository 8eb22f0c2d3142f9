"""Explanations of image files, written into a folder as they are made: records, and pictures or a page.

explanations.jsonl   a record for each answer and method
NAME.png             the picture of NAME.jpg; of a second answer or another NAME.jpg NAME-2.png
explanations.html    the same on one page, instead of pictures
shortcuts.html       what a model decides by on a whole data set; shortcuts.json: its figures
"""

import os
from itertools import groupby
from pathlib import Path
from typing import Any

from ..common.outputs import OutputError, check_private, write_whole
from ..reporting import page
from .files import Answer, Explaining, picture_name
from .pictures.drawing import alt_text
from .pictures.panels import overlay_panel, photo_panel, subject_of
from .result import png_bytes
from .resume import RECORDS, UnfinishedFiles

PNG, HTML, JSON = FORMS = ("png", "html", "json")
PAGE, SHORTCUTS = "explanations.html", "shortcuts.html"
SIDE = 320  # pixels of a picture's longer side on the page
MAX_ON_PAGE = 500  # answers; a page of more is slow to open


def check_folder(folder: str | os.PathLike) -> Path:
    """Return the folder, made if need be, into which explanations can be written.

    Raises OutputError for one that holds something else than explanations, or lies in a model's folder.
    """
    path = Path(folder)
    check_private(path / RECORDS, "a picture of an explanation")
    if path.exists() and not path.is_dir():
        raise OutputError(f"--output {path} is a file: name a folder, which is made if need be.")
    ours = any((path / name).is_file() for name in (RECORDS, SHORTCUTS))
    if path.is_dir() and any(path.iterdir()) and not ours:
        raise OutputError(f"--output {path} holds other files and no {RECORDS}: name a new or empty folder.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_files(files: Explaining, folder: Path | None, form: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Write each answer as it comes; return (the records of all, sentences on them).

    What a killed run of the same files has left is kept, see `UnfinishedFiles`.
    folder: None to write nothing.   form: one of FORMS; records are written in any case.
    """
    notes: dict[str, None] = {}
    if folder is None:
        records: list[dict[str, Any]] = []
        for answer in files.answers():
            records += answer.records()
            notes |= dict.fromkeys(answer.notes)
        return records, list(notes)
    with UnfinishedFiles(folder, f"{form} {files.made_by()}", files.paths, files.asked.batch_size) as kept:
        names: dict[str, int] = {}
        for _, (record, *_) in groupby(kept.records, lambda record: record.get("picture")):
            if "picture" in record:
                picture_name(record["path"], names)
        if kept.images:
            notes[f"{kept.images:,} images were explained before this run was stopped, and are kept"] = None
        for answer in files.answers(kept.images):
            name: str | None = None
            row: dict[str, Any] | None = None
            if answer.error is None and form == PNG:
                name = picture_name(answer.path, names)
                write_whole(folder / name, png_bytes(answer.picture()))
            if answer.error is None and form == HTML and len(kept.on_page) < MAX_ON_PAGE:
                row = _on_page(answer)
            kept.add(answer.records(name), row)
            notes |= dict.fromkeys(answer.notes)
        if form == HTML:
            page.write_page(folder / PAGE, "explanation/page.html.j2", {"rows": kept.on_page, "most": MAX_ON_PAGE})
        kept.finish()
        return kept.records, list(notes)


def _on_page(answer: Answer) -> dict[str, Any]:
    """What the page shows of an answer."""
    first = answer.explanations[0]
    photo, seen = first.photo(answer.row)
    maps = []
    for explanation in answer.explanations:
        drawn = explanation.drawn(answer.row)
        subject = subject_of(photo, [drawn], seen, SIDE, False)
        maps.append(
            {
                "method": explanation.method,
                "note": drawn.note,
                "lines": list(drawn.lines[1:]),
                "little": drawn.little,
                "picture": page.data_url(overlay_panel(subject, drawn, drawn.scale()), "png"),
                "alt": alt_text(drawn),
            }
        )
    picture = page.data_url(photo_panel(subject), "png")
    return {"path": answer.path, "title": answer.title, "photo": picture, "maps": maps}
