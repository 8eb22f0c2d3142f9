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


class Matching(NamedTuple):
    """Which patches of the first set are averaged into which of the second, by their places there.

    order: [B, n / 2], those of the first set: the r that go, then those that stay.   into: [B, r], where they go.
    """

    order: torch.Tensor
    into: torch.Tensor

    @property
    def count(self) -> int:
        return self.into.shape[1]


class Tokens(NamedTuple):
    """What goes with hidden states [B, N, D] from block to block.

    bias: [B, 1, 1, N], what attention adds to its scores: the logarithm of sizes.
    angles, rope: of rotary positions, [n, d] or [B, n, d], and what attention takes of them.
    sizes: int64 [B, N], which mixed precision leaves alone: how many tokens each stands for; None for one each.
    matchings: what has been merged, the first one first.
    """

    bias: torch.Tensor | None = None
    angles: torch.Tensor | None = None
    rope: Rope | None = None
    sizes: torch.Tensor | None = None
    matchings: tuple[Matching, ...] = ()


def merge(
    hidden_states: torch.Tensor, tokens: Tokens, keys: torch.Tensor, count: int, prefix: int
) -> tuple[torch.Tensor, Tokens]:
    """[B, N, D] and keys [B, H, N, d] -> [B, N - count, D] and what goes with it; a count of 0 changes nothing."""
    if count == 0:
        return hidden_states, tokens
    batch, length, _ = hidden_states.shape
    matching = match(keys.detach().mean(dim=1)[:, prefix:], count)
    sizes = tokens.sizes
    if sizes is None:
        sizes = torch.ones(batch, length, dtype=torch.long, device=hidden_states.device)
    merged, after = average(hidden_states, sizes, matching, prefix)
    angles, rope = tokens.angles, None
    if angles is not None:  # linear in a patch's coordinates: their average is the angle at the average place
        angles, _ = average(angles.expand(batch, -1, -1), sizes[:, prefix:], matching, 0)
        rope = rope_of(angles)
    bias = after.float().log().to(hidden_states.dtype)[:, None, None, :]
    return merged, Tokens(bias, angles, rope, after, (*tokens.matchings, matching))


def match(keys: torch.Tensor, count: int) -> Matching:
    """Of patches [B, n, d] the `count` likest pairs (bipartite soft matching: section 3 and appendix D)."""
    keys = F.normalize(keys, dim=-1)
    likeness, partners = (keys[:, ::2] @ keys[:, 1::2].mT).max(dim=-1)  # [B, n / 2]
    order = likeness.argsort(dim=-1, descending=True)
    gone, kept = order[:, :count], order[:, count:].sort(dim=-1).values
    return Matching(torch.cat([gone, kept], dim=1), partners.gather(1, gone))


def average(
    values: torch.Tensor, sizes: torch.Tensor, matching: Matching, prefix: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values [B, N, D] that stand for sizes [B, N] -> [B, N - r, D] and theirs: prefix, what stays of the first set,
    the second set, to which what goes has been added by its weight.
    """
    (batch, length, width), count = values.shape, matching.count
    images = torch.arange(batch, device=values.device)[:, None]
    rows = torch.add(prefix + length * images, matching.order, alpha=2)  # [B, n / 2], of the first set
    first_sizes, second_sizes = sizes.flatten()[rows], sizes[:, prefix + 1 :: 2]
    after = second_sizes.scatter_add(1, matching.into, first_sizes[:, :count])
    flat = values.flatten(0, 1)
    gone, kept = (flat.index_select(0, which.flatten()) for which in (rows[:, :count], rows[:, count:]))
    wide = torch.promote_types(values.dtype, torch.float32)  # sums of outliers overflow float16
    added = gone * first_sizes[:, :count].to(wide).flatten()[:, None]
    sums = (values[:, prefix + 1 :: 2] * second_sizes.to(wide)[:, :, None]).flatten(0, 1)
    sums = sums.index_add_(0, (matching.into + second_sizes.shape[1] * images).flatten(), added)
    joined = (sums.view(batch, -1, width) / after[:, :, None]).to(values.dtype)
    merged = torch.cat([values[:, :prefix], kept.view(batch, -1, width), joined], dim=1)
    return merged, torch.cat([sizes[:, :prefix], first_sizes[:, count:], after], dim=1)


def unmerge(values: torch.Tensor, tokens: Tokens, prefix: int) -> torch.Tensor:
    """[B, N, D] -> [B, N₀, D]: to each original token what it has become part of."""
    if not tokens.matchings:
        return values
    source = source_of(tokens, values.shape[1], prefix)
    return values.gather(1, source[:, :, None].expand(-1, -1, values.shape[2]))


def source_of(tokens: Tokens, length: int, prefix: int) -> torch.Tensor:
    """[B, N₀]: of N tokens after merging, the one that each original token has become part of."""
    source: torch.Tensor | None = None
    for matching in reversed(tokens.matchings):
        length += matching.count
        places = places_of(matching, length, prefix)
        source = places if source is None else source.gather(1, places)
    assert source is not None, "nothing was merged"
    return source


def places_of(matching: Matching, length: int, prefix: int) -> torch.Tensor:
    """[B, N]: where each of N tokens is after the merge."""
    (batch, first), device = matching.order.shape, matching.order.device
    stay = first - matching.count
    after = torch.cat([stay + matching.into, torch.arange(stay, device=device).expand(batch, -1)], dim=1)
    places = torch.arange(length, device=device).repeat(batch, 1)  # of the prefix, these already
    places[:, prefix::2] = prefix + after.scatter(1, matching.order, after)
    places[:, prefix + 1 :: 2] = prefix + stay + torch.arange((length - prefix) // 2, device=device)
    return places


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
