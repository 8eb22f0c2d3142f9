"""Token merging: fewer tokens from block to block, without retraining (Bolya et al. 2023, arXiv 2210.09461).

In each block, between attention and MLP, patches are told apart into two sets, every other one to each. Of the first
set, those r whose keys are most like one of the second set's are averaged into it. A token knows how many patches it
stands for: averages are weighted by that, and attention adds its logarithm to the scores (their equation 1), so that
merging equal tokens changes nothing. Prefix tokens never merge.

Shapes: B batch, N₀ tokens before any merging, N tokens, P prefix tokens, n = N - P patches, r merged ones, d = D / H.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from .position_vit_custom import Rope, rope_of
from .speeds_vit_custom import MERGING_TARGET, check_merging


class Tokens(NamedTuple):
    """What goes with hidden states [B, N, D] from block to block.

    bias: [B, 1, 1, N], what attention adds to its scores: the logarithm of sizes.
    angles, rope: of rotary positions, [n, d] or [B, n, d], and what attention takes of them.
    sizes: int64 [B, N], which mixed precision leaves alone: how many tokens each stands for; None for one each.
    source: [B, N₀], the token that each one has become part of; None as long as nothing has been merged.
    """

    bias: torch.Tensor | None = None
    angles: torch.Tensor | None = None
    rope: Rope | None = None
    sizes: torch.Tensor | None = None
    source: torch.Tensor | None = None


def merge(
    hidden_states: torch.Tensor, tokens: Tokens, keys: torch.Tensor, count: int, prefix: int
) -> tuple[torch.Tensor, Tokens]:
    """[B, N, D] and keys [B, H, N, d] -> [B, N - count, D] and what goes with it; a count of 0 changes nothing."""
    if count == 0:
        return hidden_states, tokens
    patches = match(keys.detach().mean(dim=1)[:, prefix:], count)
    first = torch.arange(prefix, device=patches.device).expand(patches.shape[0], -1)
    places = torch.cat([first, prefix + patches], dim=1)  # [B, N]
    sizes = torch.ones_like(places) if tokens.sizes is None else tokens.sizes
    merged, after = average(hidden_states, sizes, places, count)
    angles, rope = tokens.angles, None
    if angles is not None:  # linear in a patch's coordinates: their average is the angle at the average place
        angles, _ = average(angles.expand(patches.shape[0], -1, -1), sizes[:, prefix:], patches, count)
        rope = rope_of(angles)
    bias = after.float().log().to(hidden_states.dtype)[:, None, None, :]
    source = places if tokens.source is None else places.gather(1, tokens.source)
    return merged, Tokens(bias, angles, rope, after, source)


def match(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Patches [B, n, d] -> [B, n]: the place of each among the n - count that are left after the likest have merged.

    Bipartite soft matching (section 3 and appendix D). First come those of the first set that stay, then the second.
    """
    keys = F.normalize(keys, dim=-1)
    likeness, partners = (keys[:, ::2] @ keys[:, 1::2].mT).max(dim=-1)  # [B, n / 2]
    order = likeness.argsort(dim=-1, descending=True)
    gone, kept = order[:, :count], order[:, count:].sort(dim=-1).values
    stay = kept.shape[1]
    places = torch.empty(keys.shape[:2], dtype=torch.long, device=keys.device)
    second = stay + torch.arange(places[:, 1::2].shape[1], device=keys.device)
    first = torch.empty_like(partners)
    first = first.scatter(1, kept, torch.arange(stay, device=keys.device).expand_as(kept))
    first = first.scatter(1, gone, stay + partners.gather(1, gone))
    places[:, ::2], places[:, 1::2] = first, second
    return places


def average(
    values: torch.Tensor, sizes: torch.Tensor, places: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values [B, N, D], averaged by sizes [B, N] into the places [B, N] they share, and these places' sizes."""
    batch, length, width = values.shape
    left = length - count
    rows = (places + left * torch.arange(batch, device=places.device)[:, None]).flatten()
    after = sizes.new_zeros(batch * left).index_add(0, rows, sizes.flatten())
    wide = values.to(torch.promote_types(values.dtype, torch.float32))  # sums of outliers overflow float16
    weighted = (wide * sizes[:, :, None]).flatten(0, 1)
    sums = weighted.new_zeros(batch * left, width).index_add(0, rows, weighted)
    return (sums / after[:, None]).to(values.dtype).view(batch, left, width), after.view(batch, left)


def unmerge(values: torch.Tensor, source: torch.Tensor | None) -> torch.Tensor:
    """[B, N, D] -> [B, N₀, D]: to each original token what it has become part of."""
    return values if source is None else values.gather(1, source[:, :, None].expand(-1, -1, values.shape[2]))


def merge_counts(
    setting: int | Sequence[int] | str | None, layers: int, patches: int, prefix: int, width: int, mlp_width: int
) -> list[int]:
    """How many tokens each block merges: as the setting says, but never more than half of the patches.

    setting: None, a number for each block, one number for all, or how many times less arithmetic the blocks shall
    need, such as "2x", by the smallest number that does (all tokens of the last block counted, also where a classifier
    computes fewer). mlp_width: the hidden width, once for each matrix that has it (2, or 3 of a gated MLP). Raises
    ValueError for what is no setting, and for a target that cannot be reached.
    """
    if setting is None:
        return [0] * layers
    check_merging("token_merging", setting, layers)
    if not isinstance(setting, str):
        return _feasible([setting] * layers if isinstance(setting, int) else setting, patches)
    whole = _operations([0] * layers, patches + prefix, width, mlp_width)
    wanted = float(MERGING_TARGET.fullmatch(setting)[1])  # type: ignore[index]

    def gain(count: int) -> float:
        return whole / _operations(_feasible([count] * layers, patches), patches + prefix, width, mlp_width)

    least, most = 0, patches // 2
    if gain(most) < wanted:
        raise ValueError(
            f"token_merging={setting!r}: with {patches} patches and {layers} blocks at most {gain(most):.2f}x is "
            "possible. Give less, or a larger image."
        )
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if gain(middle) >= wanted else (middle + 1, most)
    return _feasible([least] * layers, patches)


def counts_for(config: Any, setting: int | Sequence[int] | str | None, patches: int) -> list[int]:
    """`merge_counts` for an encoder of this configuration."""
    return merge_counts(
        setting, config.num_hidden_layers, patches, config.num_prefix_tokens, config.hidden_size, config.mlp_products
    )


def _feasible(counts: Sequence[int], patches: int) -> list[int]:
    feasible = []
    for count in counts:
        feasible.append(min(count, patches // 2))
        patches -= feasible[-1]
    return feasible


def _operations(counts: Sequence[int], tokens: int, width: int, mlp_width: int) -> int:
    """Multiplications of the blocks: projections and both products of attention before a merge, the MLP after it."""
    total = 0
    for count in counts:
        total += tokens * 4 * width**2 + 2 * tokens**2 * width
        tokens -= count
        total += tokens * width * mlp_width
    return total
