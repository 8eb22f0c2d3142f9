"""Pictures of maps: what is drawn where. How they look was judged by eye."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from modeling_vit_custom import ViTCustomImageProcessor
from modeling_vit_custom.explanation.colours import DIVERGING, SEQUENTIAL
from modeling_vit_custom.explanation.lettering import Lettering
from modeling_vit_custom.explanation.panels import Drawn, map_panel, overlay_panel, photo_panel, subject_of
from modeling_vit_custom.explanation.pictures import (
    FEATURES,
    NOT_OF_THE_CLASS,
    alt_text,
    contact_sheet,
    draw,
    draw_rows,
)
from modeling_vit_custom.explanation.views import pixels_of, seen_box


@pytest.fixture
def photo() -> np.ndarray:
    """Return uint8 [64, 96, 3] of many colours."""
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)


@pytest.fixture
def grid() -> np.ndarray:
    """Return a map [4, 6]: 1 in one cell, a little against in another."""
    grid = np.zeros((4, 6))
    grid[1, 4], grid[3, 0] = 1, -0.5
    return grid


def pixels(panel: Image.Image) -> np.ndarray:
    return np.array(panel)


def middle(panel: Image.Image, row: int, column: int) -> np.ndarray:
    """Return the pixel in the middle of a cell of a 4 x 6 map."""
    values = pixels(panel)
    return values[int((row + 0.5) * values.shape[0] / 4), int((column + 0.5) * values.shape[1] / 6)].astype(int)


# ---------- panels


def test_the_map_has_the_tables_colours_at_the_centres_of_cells(photo, grid):
    subject = subject_of(photo, [Drawn(grid, "")], None, 400, False)
    panel = map_panel(subject, Drawn(grid, ""), 1.0)
    assert panel.size == (384, 256), "much enlarged: by a whole number"
    assert abs(middle(panel, 1, 4) - SEQUENTIAL[-1]).max() < 20
    assert (middle(panel, 3, 0) == SEQUENTIAL[0]).all(), "evidence against is not drawn"
    signed = map_panel(subject, Drawn(grid, "", signed=True), 1.0)
    assert abs(middle(signed, 1, 4) - DIVERGING[-1]).max() < 12
    assert abs(middle(signed, 3, 0) - DIVERGING[4]).max() < 12
    assert (middle(signed, 0, 0) == DIVERGING[8]).all()


def test_where_there_is_no_evidence_the_overlay_is_the_photo_in_grey(photo, grid):
    subject = subject_of(photo, [Drawn(grid, "")], None, 64, False)
    panel = overlay_panel(subject, Drawn(grid, ""), 1.0)
    shown = np.array(Image.fromarray(photo).resize(panel.size, Image.Resampling.LANCZOS).convert("L"), int)
    assert abs(pixels(panel)[:, : panel.width // 3] - shown[:, : panel.width // 3, None]).max() <= 1
    top = pixels(panel)[16:20, 44:48].astype(int)
    assert (top[..., 0] - top[..., 2]).mean() > 40, "yellow"


@pytest.mark.parametrize("brightness", [0, 255])
def test_a_hatching_is_seen_on_dark_and_on_light_photos(grid, brightness):
    plain = np.full((64, 96, 3), brightness, np.uint8)
    drawn = Drawn(grid, "", unconfirmed=[(0, 0)])
    panel = pixels(overlay_panel(subject_of(plain, [drawn], None, 96, False), drawn, 1.0)).astype(int)
    inside, beside = panel[:16, :16], panel[:16, 16:32]
    assert inside.max() - inside.min() >= 220 and beside.max() == beside.min() == brightness


def test_the_map_covers_the_box_that_was_seen_and_the_rest_is_hatched(photo, grid):
    drawn = Drawn(np.ones((2, 2)), "")
    subject = subject_of(photo, [drawn], (0, 16, 64, 80), 96, False)
    assert subject.box == (0, 16, 64, 80)
    panel = pixels(map_panel(subject, drawn, 1.0))
    assert (panel[:, 16:80] == SEQUENTIAL[-1]).all()
    assert len(np.unique(panel[:, :16])) > 1 and panel[:, :16].mean() > 180
    inside, whole = (pixels(photo_panel(one)) for one in (subject, subject_of(photo, [drawn], None, 96, False)))
    assert (inside[:, 16:80] == whole[:, 16:80]).all()
    assert (inside[:, :16] != whole[:, :16]).mean() > 0.9


def test_borders_of_cells_are_drawn_on_request(photo, grid):
    drawn = Drawn(grid, "")
    with_borders, without = (
        pixels(map_panel(subject_of(photo, [drawn], None, 96, cells), drawn, 1.0)) for cells in (True, False)
    )
    differs = (with_borders != without).any(axis=2)
    assert differs[16].all() and differs[:, 16].all() and not differs[1:15, 1:15].any()


# ---------- pictures


def colours_in(picture: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in picture.getcolors(picture.width * picture.height)}


def test_rows_share_one_scale_so_a_weaker_class_is_darker(photo, grid):
    weak, strong = Drawn(0.3 * grid, "weak"), Drawn(grid, "strong")
    alone, beside = draw_rows(photo, [weak]), draw_rows(photo, [weak, strong])
    height = alone.height
    assert beside.height > 1.7 * height
    brightest = tuple(SEQUENTIAL[-1].tolist())
    without_bar = (0, 0, alone.width, 22 + 18 + 170)
    assert brightest in colours_in(draw(photo, np.full((4, 6), 0.3), title="").crop(without_bar))
    scaled = draw(photo, np.full((4, 6), 0.3), title="", scale=1.0).crop(without_bar)
    assert brightest not in colours_in(scaled)


def test_panels_keep_the_photos_shape_and_grow_with_side(photo, grid):
    small, large = draw(photo, grid, title="a class", side=256), draw(photo, grid, title="a class", side=512)
    assert large.width == pytest.approx(2 * small.width, rel=0.05)
    narrow = draw(np.zeros((300, 6, 3), np.uint8), grid, title="a class")
    assert narrow.width < small.width


@pytest.mark.parametrize("words", [{"note": FEATURES}, {"little": "the probability is 0.41"}, {"lines": ["SRG 0.3"]}])
def test_everything_that_is_said_is_drawn(photo, grid, words):
    plain, more = draw(photo, grid, title="a class"), draw(photo, grid, title="a class", **words)
    width = min(plain.width, more.width)
    different = (pixels(plain)[:200, -320:] != pixels(more)[:200, -320:]).any(axis=2)
    assert width == plain.width == more.width and different.sum() > 50


def test_a_sheet_has_a_tile_for_the_image_and_each_map_on_its_own_scale(photo, grid):
    maps = [Drawn(grid * scale, name) for scale, name in ((1, "libra"), (1000, "chefer"), (1e-6, "rollout"))]
    sheet = contact_sheet(photo, maps, title="all", columns=2)
    single = contact_sheet(photo, maps, title="all", columns=9)
    assert sheet.height > 1.5 * single.height and single.width > 1.5 * sheet.width
    tile = (sheet.width - 44 - 22) // 2
    second, third = (
        pixels(sheet)[y : y + 100, x : x + tile].reshape(-1, 3)
        for x, y in ((22 + tile + 22, 22 + 50), (22 + tile + 22, sheet.height // 2 + 40))
    )
    warm = [int(((part[:, 0].astype(int) - part[:, 2]) > 60).sum()) for part in (second, third)]
    assert min(warm) > 0.7 * max(warm) > 0


def test_a_map_without_positive_values_is_drawn_as_empty(photo):
    picture = draw(photo, -np.ones((4, 6)), title="nothing")
    assert tuple(SEQUENTIAL[-1].tolist()) not in colours_in(picture)


def test_words_for_readers_who_do_not_see_the_picture(grid):
    drawn = Drawn(grid, "Why 'cat'", lines=["SRG 0.3"], note=NOT_OF_THE_CLASS, little="unsure")
    assert alt_text(drawn) == (
        "Why 'cat'. not an explanation of the class. highest in row 2 of 4, column 5 of 6. SRG 0.3. unsure"
    )


@pytest.mark.parametrize(
    ("pixels_", "grid_", "options", "message"),
    [
        (np.zeros((8, 8), np.uint8), np.zeros((2, 2)), {}, r"pixels: uint8 of shape \[8, 8\]"),
        (np.zeros((8, 8, 3)), np.zeros((2, 2)), {}, "pixels: float64"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros(4), {}, r"grid of 'a': shape \[4\]"),
        (np.zeros((8, 8, 3), np.uint8), np.full((2, 2), np.nan), {}, "grid of 'a': .*not finite"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((2, 2)), {"seen": (0, 0, 9, 8)}, "seen=.*within 8 x 8 pixels"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(pixels_, grid_, options, message):
    with pytest.raises(ValueError, match=message):
        draw(pixels_, grid_, title="a", **options)


# ---------- names


@pytest.mark.parametrize("name", ["猫", "Käse", "Ελληνικά", "Кошка", "قط", "a\x1b[31m\u202eb", "🐈", "", "x" * 5000])
def test_every_name_is_drawn_within_its_column(photo, grid, name):
    picture = draw(photo, grid, title=name, lines=[name], note=name, little=name)
    assert picture.size[0] == draw(photo, grid, title="cat").size[0]
    assert (pixels(picture)[:, -22:] == 255).all() and (pixels(picture)[-22:] == 255).all()


def test_letters_without_a_glyph_are_spelt_out_and_signs_have_plain_forms():
    letters = Lettering()
    letters.files = ("",)
    assert letters.fitting("0.93 → 0.21 × é 猫", 14)[1] == r"0.93 -> 0.21 x e \u732b"
    assert letters.fitting("a\nb\x1b", 14)[1] == r"a\nb\x1b"


def test_a_given_font_comes_first(tmp_path):
    pytest.importorskip("matplotlib")
    file = Lettering().files[-1]
    font, text = Lettering(file).fitting("Кошка é", 14)
    assert text == "Кошка é" and font.getname() == ImageFont.truetype(file, 14).getname()


def test_lines_break_at_spaces_and_never_inside_an_arrow():
    letters = Lettering()
    lines = [line for _, line in letters.wrapped("hides the 25 % most: 0.93 → 0.21; random 25 %: 0.93 → 0.80", 14, 150)]
    assert len(lines) > 2 and all(letters.fitting(line, 14)[0].getlength(line) <= 150 for line in lines)
    assert not [line for line in lines if line.startswith(("->", "%")) or line.endswith("->")]
    assert " ".join(lines).replace("  ", " ") == "hides the 25 % most: 0.93 -> 0.21; random 25 %: 0.93 -> 0.80"
    cut = letters.wrapped("word " * 200, 14, 150, most=2)
    assert len(cut) == 2 and cut[-1][1].endswith("…")


# ---------- what the model saw


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_pixels_undo_the_normalisation_for_any_number_of_channels(channels):
    raw = torch.randint(0, 256, (channels, 6, 5), generator=torch.Generator().manual_seed(0)).float()
    mean, std = [0.1 * (n + 1) for n in range(channels)], [0.2 + 0.1 * n for n in range(channels)]
    normal = (raw / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    expected = raw[:3] if channels >= 3 else raw[:1].expand(3, -1, -1)
    assert (pixels_of(normal, mean, std) == expected.permute(1, 2, 0).numpy()).all()
    with pytest.raises(ValueError, match="mean, std"):
        pixels_of(normal, [*mean, 0.5], std)


@pytest.mark.parametrize("hw", [(100, 200), (301, 107), (64, 64)])
def test_the_seen_box_is_where_the_crop_comes_from(hw):
    """A photo whose red is its row and whose green is its column: the processed corners say where they come from."""
    processor = ViTCustomImageProcessor(
        size={"shortest_edge": 40}, do_center_crop=True, crop_size={"height": 32, "width": 24}, do_normalize=False
    )
    height, width = hw
    at = np.zeros((height, width, 3), np.float32)
    at[..., 0], at[..., 1] = np.arange(height)[:, None] / height, np.arange(width)[None] / width
    seen = processor((at * 255).round().astype(np.uint8), return_tensors="pt")["pixel_values"][0]
    top, left, bottom, right = seen_box(processor, hw)
    expected = (seen[0, 0].mean() * height, seen[1, :, 0].mean() * width)
    assert (top, left) == pytest.approx([float(value) for value in expected], abs=height / 40 + 1)
    expected = (seen[0, -1].mean() * height, seen[1, :, -1].mean() * width)
    assert (bottom, right) == pytest.approx([float(value) for value in expected], abs=max(hw) / 40 + 1)


def test_the_seen_box_without_a_crop_is_the_photo_and_padding_is_refused():
    whole = ViTCustomImageProcessor(size={"height": 32, "width": 32})
    assert seen_box(whole, (100, 200)) == (0, 0, 100, 200)
    padded = ViTCustomImageProcessor(do_resize=False, do_center_crop=True, crop_size={"height": 32, "width": 32})
    with pytest.raises(ValueError, match="pads this photo, which has 20 x 50"):
        seen_box(padded, (20, 50))
