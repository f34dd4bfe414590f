"""Which entries are active in a training step: places in the flattened [batch, feature], ascending.

They are found without a search through all outputs where few are active: a sample of rows says where the largest
scores begin. Where the processor has products in bfloat16 that take a fraction of those in float32, outputs are rounded
ones at first: they say where large scores may lie, exact ones are made there alone, and these decide.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ontogeny.dictionaries.kernels import Entries, above
from ontogeny.ranks import ALONE, Ranks

CANDIDATES = 3
"""Times k: how many of a row's values are looked at before all of them are."""
MORE, MORE_AT_LEAST = 1.3, 6
"""Times as many entries as are active, and of a row so many more at least: how many are looked at first."""
SURE = 2.0
"""Times the greatest difference of exact and rounded scores that was seen: what others are taken to differ by."""
WORTH_IT = 1 << 22
"""Encoder weights from which on dense products take so long that a search pays."""
FEATURES_AT_ONCE = 1024
"""Encoder rows that are rounded at once."""


def checked(k: int | None, n_features: int) -> int:
    if k is None or not 1 <= k <= n_features:
        raise ValueError(f"k = {k} does not lie in 1..{n_features}")
    return k


def _candidates(
    pre: Float[Tensor, "batch feature"],
    weight: Float[Tensor, " feature"],
    count: int,
    *,
    bias: Float[Tensor, " feature"] | None = None,
) -> tuple[Int[Tensor, " entry"], Float[Tensor, " entry"]]:
    """Places and scores of about the `count` largest positive ones: a sample of rows says where these begin."""
    sample = pre[:: max(1, len(pre) // 32)]
    sample = ((sample if bias is None else sample + bias) * weight).flatten()
    among = min(len(sample), count * len(sample) // pre.numel() + 1)
    least = sample.topk(among, sorted=False).values.min()
    return above(pre, weight, least.nextafter(least.new_tensor(-torch.inf)).clamp_min(0).expand_as(weight), bias=bias)


def batch_topk_places(
    pre: Float[Tensor, "batch feature"],
    *,
    weight: Float[Tensor, " feature"],
    k: int | None = None,
    threshold: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> Int[Tensor, " entry"]:
    """What `batch_topk` keeps: of equal scores all. With other ranks the largest of all features are kept."""
    count = checked(k, pre.shape[1] * ranks.size) * len(pre) * ranks.replicas
    places, score = _candidates(pre, weight, int(MORE * count))
    if len(places) < count:
        places, score = above(pre, weight, torch.zeros_like(weight))
    own = score if ranks.alone or len(score) <= count else score.topk(count, sorted=False).values
    every = ranks.gathered(own)
    return places if len(every) <= count else places[score >= every.topk(count, sorted=False).values.min()]


def topk_places(
    pre: Float[Tensor, "batch feature"],
    *,
    weight: Float[Tensor, " feature"],
    k: int | None = None,
    threshold: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> Int[Tensor, " entry"]:
    """What `topk` keeps. Most rows have k values among the largest few k of the batch; only the others are searched.

    With other ranks the largest of all features are kept.
    """
    (rows, columns), wanted = pre.shape, checked(k, pre.shape[1] * ranks.size)
    k = min(wanted, columns)
    places, score = _candidates(pre, weight, min(CANDIDATES * k, columns) * rows)
    row = places.div(columns, rounding_mode="floor")
    table, counts = _by_row(score, row, rows, least=k)
    kept = places[score >= table.topk(k, dim=1, sorted=False).values.amin(1)[row]]
    short = (counts < k).nonzero()[:, 0]
    if len(short):
        kept = kept[(counts >= k)[kept.div(columns, rounding_mode="floor")]]
        found = topk_mask(pre.index_select(0, short) * weight, k).nonzero()
        kept = torch.cat([kept, short[found[:, 0]] * columns + found[:, 1]]).sort().values
    if ranks.size == 1:
        return kept
    row = kept.div(columns, rounding_mode="floor")
    score = pre.flatten()[kept] * weight[kept - row * columns]
    table, _ = _by_row(score, row, rows, least=wanted)
    every = ranks.stacked(table[:, :wanted]).transpose(0, 1).flatten(1)
    return kept[score >= every.topk(wanted, dim=1, sorted=False).values.amin(1)[row]]


def _by_row(score: Tensor, row: Tensor, rows: int, *, least: int) -> tuple[Tensor, Tensor]:
    """Scores of ascending rows side by side, -∞ after them [row, …] of `least` columns at least, and their numbers."""
    counts = torch.bincount(row, minlength=rows)
    rank = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    table = score.new_full((rows, max(least, int(counts.max()))), -torch.inf)
    table[row, rank] = score
    return table, counts


def topk_mask(score: Float[Tensor, "batch feature"], k: int) -> Bool[Tensor, "batch feature"]:
    """Where each row's `k` largest positive values are, and those equal to the least of them."""
    least = score.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
    return (score >= least) & (score > 0)


def positive_places(
    pre: Float[Tensor, "batch feature"],
    *,
    weight: Float[Tensor, " feature"],
    k: int | None = None,
    threshold: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> Int[Tensor, " entry"]:
    """What `relu` keeps."""
    return above(pre, torch.ones_like(weight), torch.zeros_like(weight))[0]


def jumprelu_places(
    pre: Float[Tensor, "batch feature"],
    *,
    weight: Float[Tensor, " feature"],
    k: int | None = None,
    threshold: Float[Tensor, " feature"] | None = None,
    ranks: Ranks = ALONE,
) -> Int[Tensor, " entry"]:
    """What `jumprelu` keeps."""
    assert threshold is not None
    return above(pre, weight, threshold)[0]


class Rounded(NamedTuple):
    """Encoder outputs by products in bfloat16, values + bias.

    Attributes:
        values: [batch, feature], bfloat16.
        bias: [feature].
        x, rows: what was multiplied, [batch, width] and [feature, width].
        b_enc: what exact outputs have beside the product [feature].
    """

    values: Tensor
    bias: Tensor
    x: Tensor
    rows: Tensor
    b_enc: Tensor

    def exact(self, entries: Entries) -> Float[Tensor, " entry"]:
        """Exact ones, in float32."""
        return entries.products(self.x, self.rows) + self.b_enc[entries.column]


@torch.no_grad()
def rounded_outputs(
    x: Float[Tensor, "batch width"],
    rows: Float[Tensor, "feature width"],
    b_enc: Float[Tensor, " feature"],
    *,
    centre: Float[Tensor, " width"],
) -> Rounded:
    """x rowsᵀ + b_enc. x - `centre` is what is rounded, so that a common mean does not hide what tokens differ by."""
    low, (features, width) = (x - centre).bfloat16(), rows.shape
    values, bias = low.new_empty(len(x), features), torch.empty_like(b_enc)
    low_rows = low.new_empty(min(features, FEATURES_AT_ONCE), width)
    for first in range(0, features, FEATURES_AT_ONCE):
        some = slice(first, min(first + FEATURES_AT_ONCE, features))
        own = low_rows[: some.stop - first].copy_(rows[some])
        torch.mm(low, own.T, out=values[:, some])
        torch.addmv(b_enc[some], rows[some], centre, out=bias[some])
    return Rounded(values, bias, x, rows, b_enc)


class Found(NamedTuple):
    """Active entries, and the exact encoder outputs there."""

    places: Int[Tensor, " entry"]
    outputs: Float[Tensor, " entry"]


def batch_topk_search(rounded: Rounded, *, weight: Float[Tensor, " feature"], k: int) -> Found | None:
    """What `batch_topk_places` keeps of exact outputs; None where rounded ones cannot tell.

    They can where the least score kept is so far above all that were not looked at that no difference as great as
    SURE times the greatest seen brings one of these among those kept.
    """
    count = k * len(rounded.values)
    for more in (MORE, 2 * MORE):
        places, score = _candidates(rounded.values, weight, int(more * count), bias=rounded.bias)
        if len(places) <= count:
            continue
        entries = Entries.at(places, (len(rounded.values), len(weight)))
        outputs = rounded.exact(entries)
        exact = outputs * weight[entries.column]
        least = exact.topk(count, sorted=False).values.min()
        if least.clamp_min(0) > score.min() + SURE * (exact - score).abs().max():
            kept = exact >= least
            return Found(places[kept], outputs[kept])
    return None


def topk_search(rounded: Rounded, *, weight: Float[Tensor, " feature"], k: int) -> Found | None:
    """What `topk_places` keeps of exact outputs; None where rounded ones cannot tell of most rows.

    Of the others all outputs are made.
    """
    rows, columns = rounded.values.shape
    looked_at = min(columns, k + max(MORE_AT_LEAST, math.ceil((MORE - 1) * k)))
    places, score, bound = _leading(rounded, weight, looked_at)
    entries = Entries.at(places, (rows, columns))
    outputs = rounded.exact(entries)
    exact = outputs * weight[entries.column]
    table, _ = _by_row(exact, entries.row, rows, least=k)
    least = table.topk(k, dim=1, sorted=False).values.amin(1)
    sure = least.clamp_min(0) > bound + SURE * (exact - score).abs().max()
    kept = (exact >= least[entries.row]) & (exact > 0) & sure[entries.row]
    places, outputs = places[kept], outputs[kept]
    unsure = (~sure).nonzero()[:, 0]
    if len(unsure) > rows // 4:
        return None
    if len(unsure):
        pre = torch.addmm(rounded.b_enc, rounded.x[unsure], rounded.rows.T)
        found = topk_mask(pre * weight, k).nonzero()
        others = unsure[found[:, 0]] * columns + found[:, 1]
        places, order = torch.cat([places, others]).sort()
        outputs = torch.cat([outputs, pre[found[:, 0], found[:, 1]]])[order]
    return Found(places, outputs)


def _leading(rounded: Rounded, weight: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places and scores of the `count` largest of each row at least, and what all others of a row are not above.

    Most rows have as many among the largest few of the batch; only the others are searched.
    """
    rows, columns = rounded.values.shape
    among = min(CANDIDATES * count, columns) * rows
    places, score = _candidates(rounded.values, weight, among, bias=rounded.bias)
    row = places.div(columns, rounding_mode="floor")
    table, counts = _by_row(score, row, rows, least=count)
    bound = table.topk(count, dim=1, sorted=False).values.amin(1)
    near = (score >= bound[row]) & (counts >= count)[row]
    places, score = places[near], score[near]
    short = (counts < count).nonzero()[:, 0]
    if len(short):
        found = ((rounded.values[short] + rounded.bias) * weight).topk(count, dim=1, sorted=False)
        bound[short] = found.values.amin(1)
        places, order = torch.cat([places, (short[:, None] * columns + found.indices).flatten()]).sort()
        score = torch.cat([score, found.values.flatten()])[order]
    return places, score, bound
