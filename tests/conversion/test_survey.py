"""Every Vision Transformer of timm converts, or is refused with a reason that a reader understands."""

import re

import pytest

from modeling_vit_custom.commands.convert import main
from modeling_vit_custom.conversion.survey import refusal, timm_names

# a name of each kind that is refused, and the reason
REFUSED = {
    "vit_relpos_small_patch16_224": "relative positions",
    "beit_base_patch16_224": "BEiT",
    "naflexvit_base_patch16_gap": "NaFlex",
    "samvit_base_patch16_224": "windows",
    "vit_small_r26_s32_224": "hybrid",
    "vit_base_patch16_xp_224": "side by side",
    "vit_small_patch16_18x2_224": "side by side",
    "vit_base_patch16_rpn_224": "norms after their branches",
    "vit_dwee_patch16_reg1_gap_256": "differential attention",
    "vit_small_patch16_rope_224": "rotary positions",
    "eva02_tiny_patch14_224": "rotary positions",
    "beit3_base_patch16_224": "norms inside attention or MLP",
    "aimv2_large_patch14_224": "norms other than layer norm",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_this_architecture_lacks_is_named(name):
    assert REFUSED[name] in refusal(name)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2"]
)
def test_plain_ones_convert(name):
    assert refusal(name) is None


@pytest.mark.slow
def test_every_name_converts_or_says_why_not(capsys):
    assert main(["--list", "timm"]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    said = dict(line.split(": ", 1) for line in lines)
    assert list(said) == timm_names()
    converting = [name for name, what in said.items() if what == "converts"]
    assert total == f"{len(converting)} of {len(said)} convert" and len(converting) >= 170
    for name, what in said.items():
        assert what == "converts" or what.endswith("no place in this architecture."), (name, what)
    plain = re.compile(
        r"(vit|deit|deit3)_(tiny|small|base|large|huge)_patch\d+(_(reg\d|clip|siglip|dinov\d|gap))*_\d+$"
    )
    assert not [name for name in said if plain.match(name) and said[name] != "converts"]
