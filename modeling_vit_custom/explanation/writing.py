"""Explanations of image files, written into a folder as they are made: records, and pictures or a page.

explanations.jsonl   a record for each answer and method
NAME.png             the picture of NAME.jpg; of a second answer or another NAME.jpg NAME-2.png
explanations.html    the same on one page, instead of pictures
shortcuts.html       what a model decides by on a whole data set; shortcuts.json: its figures
"""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..common.outputs import OutputError, check_private, write_whole
from ..inference.answers import json_line
from ..reporting import page
from .files import Answer, picture_name
from .pictures.drawing import alt_text
from .pictures.panels import overlay_panel, photo_panel, subject_of
from .result import png_bytes

PNG, HTML, JSON = FORMS = ("png", "html", "json")
RECORDS, PAGE = "explanations.jsonl", "explanations.html"
SHORTCUTS = "shortcuts.html"
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


def write_answers(answers: Iterable[Answer], folder: Path | None, form: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Write each answer as it comes; return (the records of all, sentences on them).

    folder: None to write nothing.   form: one of FORMS; records are written in any case.
    """
    with ExitStack() as stack:
        lines = None if folder is None else stack.enter_context(open(folder / RECORDS, "w", encoding="utf-8"))
        names: dict[str, int] = {}
        records: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        notes: dict[str, None] = {}
        for answer in answers:
            name = None
            if answer.error is None and folder is not None and form == PNG:
                name = picture_name(answer.path, names)
                write_whole(folder / name, png_bytes(answer.picture()))
            if answer.error is None and folder is not None and form == HTML and len(rows) < MAX_ON_PAGE:
                rows.append(_on_page(answer))
            made = answer.records(name)
            records += made
            notes |= dict.fromkeys(answer.notes)
            if lines is not None:
                lines.writelines(map(json_line, made))
                lines.flush()
        if folder is not None and form == HTML:
            page.write_page(folder / PAGE, "explanation/page.html.j2", {"rows": rows, "most": MAX_ON_PAGE})
    return records, list(notes)


def _on_page(answer: Answer) -> dict[str, Any]:
    """What the page shows of an answer."""
    first = answer.explanations[0]
    photo = first.photos[first.rows[answer.row]]
    maps = []
    for explanation in answer.explanations:
        drawn = explanation.drawn(answer.row)
        subject = subject_of(photo, [drawn], (0, 0, *explanation.seen), SIDE, False)
        maps.append(
            {
                "method": explanation.method,
                "drawn": replace(drawn, lines=drawn.lines[1:]),
                "picture": page.data_url(overlay_panel(subject, drawn, drawn.scale()), "png"),
                "alt": alt_text(drawn),
            }
        )
    picture = page.data_url(photo_panel(subject), "png")
    return {"path": answer.path, "title": answer.title, "photo": picture, "maps": maps}
