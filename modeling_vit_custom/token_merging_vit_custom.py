"""Token merging (ToMe): fewer tokens from block to block, without retraining (Bolya et al. 2023, arXiv 2210.09461).

Each block merges patches between attention and MLP. Patches alternate between source and destination. Each source is
matched to the destination whose key is most similar, and the r sources of highest similarity are averaged into theirs.
The size of a token is the number of original tokens that it stands for. Averages are weighted by size, and attention
adds the logarithm of the size to its scores (their equation 1), so that merging equal tokens changes nothing. Prefix
tokens never merge.

Shapes: B batch, N₀ tokens before any merging, N tokens, P prefix tokens, n = N - P patches, of which ⌈n/2⌉ are sources,
r merged sources, D width, H heads, d = D / H.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from .position_vit_custom import Rope, rope_of
from .speeds_vit_custom import MERGING_TARGET, check_merging


class Matching(NamedTuple):
    """Which sources are merged into which destinations; both are indices within their own set.

    order: [B, ⌈n/2⌉], all sources: the r merged ones, then the others in order.   into: [B, r], the destinations.
    """

    source_order: torch.Tensor
    destination: torch.Tensor

    @property
    def count(self) -> int:
        return self.destination.shape[1]


class Tokens(NamedTuple):
    """Token state: what accompanies hidden states [B, N, D] from block to block.

    prefix: the number P of tokens before the patches.
    mask: which tokens may be attended to, in the form that the attention function reads.
    bias: [B, 1, 1, N], added to the attention scores: the logarithm of the sizes.
    angles: rotary angles [n, d] or [B, n, d] of the patches.   rope: their cosines and sines, for attention.
    sizes: [B, N], how many original tokens each stands for, None for one each. int64: mixed precision casts floats.
    matchings: all merges so far, in order.
    """

    prefix: int = 0
    mask: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    angles: torch.Tensor | None = None
    rope: Rope | None = None
    sizes: torch.Tensor | None = None
    matchings: tuple[Matching, ...] = ()


NOTHING = Tokens()


def size_bias(sizes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what attention adds to its scores for tokens of sizes [B, N]: their logarithm, [B, 1, 1, N]."""
    return sizes.float().log().to(dtype)[:, None, None, :]


def merge(hidden_states: torch.Tensor, tokens: Tokens, keys: torch.Tensor, count: int) -> tuple[torch.Tensor, Tokens]:
    """Merge `count` sources of tokens [B, N, D] by their keys [B, H, N, d]; return [B, N - count, D] and its state."""
    prefix = tokens.prefix
    batch, length, _ = hidden_states.shape
    matching = match(keys.detach().mean(dim=1)[:, prefix:], count)
    sizes = tokens.sizes
    if sizes is None:
        sizes = torch.ones(batch, length, dtype=torch.long, device=hidden_states.device)
    merged, after = average(hidden_states, sizes, matching, prefix)
    angles, rope = tokens.angles, None
    if angles is not None:  # linear in position, so the average angle is that of the average position
        angles, _ = average(angles.expand(batch, -1, -1), sizes[:, prefix:], matching, 0)
        rope = rope_of(angles)
    bias = size_bias(after, hidden_states.dtype)
    matchings = (*tokens.matchings, matching)
    return merged, tokens._replace(bias=bias, angles=angles, rope=rope, sizes=after, matchings=matchings)


def match(keys: torch.Tensor, count: int) -> Matching:
    """Return the `count` most similar pairs of source and destination, by the keys [B, n, d] of the patches.

    This is bipartite soft matching by cosine similarity (section 3 and appendix D).
    """
    keys = F.normalize(keys, dim=-1)
    similarity, partners = (keys[:, ::2] @ keys[:, 1::2].mT).max(dim=-1)  # [B, ⌈n/2⌉]
    order = similarity.argsort(dim=-1, descending=True)
    gone, kept = order[:, :count], order[:, count:].sort(dim=-1).values
    return Matching(torch.cat([gone, kept], dim=1), partners.gather(1, gone))


def average(
    values: torch.Tensor, sizes: torch.Tensor, matching: Matching, prefix: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average merged sources into their destinations: values [B, N, D] and sizes [B, N] → [B, N - r, D] and [B, N - r].

    Averages are weighted by size. The result holds the prefix, the sources not merged, then the destinations.
    """
    (batch, length, width), count = values.shape, matching.count
    images = torch.arange(batch, device=values.device)[:, None]
    rows = torch.add(
        prefix + length * images, matching.source_order, alpha=2
    )  # [B, ⌈n/2⌉], the sources' rows in `flat`
    first_sizes, second_sizes = sizes.flatten()[rows], sizes[:, prefix + 1 :: 2]
    after = second_sizes.scatter_add(1, matching.destination, first_sizes[:, :count])
    flat = values.flatten(0, 1)
    gone, kept = (flat.index_select(0, which.flatten()) for which in (rows[:, :count], rows[:, count:]))
    wide = torch.promote_types(values.dtype, torch.float32)  # sums of outliers overflow float16
    added = gone * first_sizes[:, :count].to(wide).flatten()[:, None]
    sums = (values[:, prefix + 1 :: 2] * second_sizes.to(wide)[:, :, None]).flatten(0, 1)
    sums = sums.index_add_(0, (matching.destination + second_sizes.shape[1] * images).flatten(), added)
    joined = (sums.view(batch, -1, width) / after[:, :, None]).to(values.dtype)
    merged = torch.cat([values[:, :prefix], kept.view(batch, -1, width), joined], dim=1)
    return merged, torch.cat([sizes[:, :prefix], first_sizes[:, count:], after], dim=1)


def unmerge(values: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """Return [B, N₀, D]: for each original token, the row of values [B, N, D] that it was merged into."""
    if not tokens.matchings:
        return values
    source = source_of(tokens, values.shape[1])
    return values.gather(1, source[:, :, None].expand(-1, -1, values.shape[2]))


def source_of(tokens: Tokens, length: int) -> torch.Tensor:
    """Return [B, N₀]: for each original token, the index of the token it was merged into, among N = `length`."""
    source: torch.Tensor | None = None
    for matching in reversed(tokens.matchings):
        length += matching.count
        places = merged_index(matching, length, tokens.prefix)
        source = places if source is None else source.gather(1, places)
    assert source is not None, "nothing was merged"
    return source


def merged_index(matching: Matching, length: int, prefix: int) -> torch.Tensor:
    """Return [B, N]: the index after one merge of each of the N = `length` tokens before it."""
    (batch, first), device = matching.source_order.shape, matching.source_order.device
    stay = first - matching.count
    after = torch.cat([stay + matching.destination, torch.arange(stay, device=device).expand(batch, -1)], dim=1)
    places = torch.arange(length, device=device).repeat(batch, 1)  # the prefix stays where it is
    places[:, prefix::2] = prefix + after.scatter(1, matching.source_order, after)
    places[:, prefix + 1 :: 2] = prefix + stay + torch.arange((length - prefix) // 2, device=device)
    return places


def merge_counts(
    setting: int | Sequence[int] | str | None, layers: int, patches: int, prefix: int, width: int, mlp_width: int
) -> list[int]:
    """Return how many patches each block merges: as `setting` says, but at most half of its patches.

    setting: None, one number for all blocks, a number for each, or a target such as "2x". A target is how many times
    less arithmetic the blocks shall need; the smallest number for all blocks that reaches it is taken. The last block
    counts with all its tokens, although a classifier computes fewer there.
    mlp_width: the hidden width times the matrices that have it (2, or 3 of a gated MLP).
    Raises ValueError for an invalid setting and for a target that cannot be reached.
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
    """Return `merge_counts` for an encoder of this configuration."""
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
    """Multiplications of all blocks: projections and both products of attention before a merge, the MLP after it."""
    total = 0
    for count in counts:
        total += tokens * 4 * width**2 + 2 * tokens**2 * width
        tokens -= count
        total += tokens * width * mlp_width
    return total
