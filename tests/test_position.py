"""Rotary positions equal DINOv3's, are pure rotations, and make scores depend on relative positions."""

import torch
from transformers import DINOv3ViTConfig
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTRopePositionEmbedding, apply_rotary_pos_emb

from modeling_vit_custom.position_vit_custom import rope_angles, rope_of, rotate


def test_rotary_positions_are_those_of_dinov3():
    config = DINOv3ViTConfig(hidden_size=32, num_attention_heads=2, patch_size=8, rope_theta=100.0)
    reference = DINOv3ViTRopePositionEmbedding(config).eval()
    cos, sin = reference(torch.zeros(1, 3, 24, 40))
    rope = rope_of(rope_angles((3, 5), 16, 100.0))
    torch.testing.assert_close(rope, (cos, sin), rtol=0, atol=1e-6)
    query, key = torch.randn(2, 2, 2, 17, 16)
    expected = apply_rotary_pos_emb(query, key, cos, sin)
    torch.testing.assert_close((rotate(query, rope), rotate(key, rope)), expected, rtol=0, atol=1e-5)


def test_prefix_tokens_stay_and_lengths_are_kept():
    heads, rope = torch.randn(2, 3, 8, 16), rope_of(rope_angles((2, 3), 16, 100.0))
    turned = rotate(heads, rope)
    assert torch.equal(turned[:, :, :2], heads[:, :, :2])
    torch.testing.assert_close(turned.norm(dim=-1), heads.norm(dim=-1))
    assert not torch.allclose(turned[:, :, 2:], heads[:, :, 2:])


def test_scores_depend_on_the_distance_between_patches_alone():
    """The same query and key two columns apart have the same score everywhere in the row."""
    query, key = torch.randn(2, 16)
    rope = rope_of(rope_angles((1, 8), 16, 100.0))
    rows = [rotate(vector.expand(1, 1, 8, 16), rope)[0, 0] for vector in (query, key)]
    scores = (rows[0] @ rows[1].T).diagonal(offset=2)
    torch.testing.assert_close(scores, scores[:1].expand_as(scores), rtol=1e-4, atol=1e-5)
    assert (rows[0] @ rows[1].T).diagonal(offset=1)[0] != scores[0]


def test_reduced_precision_turns_in_float32():
    heads, rope = torch.randn(1, 1, 6, 16), rope_of(rope_angles((2, 3), 16, 100.0))
    half = rotate(heads.bfloat16(), rope)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, rotate(heads.bfloat16().float(), rope).bfloat16(), rtol=0, atol=0)
