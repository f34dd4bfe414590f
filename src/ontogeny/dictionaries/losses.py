"""Losses and figures of a batch. Sums over d_model, snapshots and features, means over tokens.

Every sparsity loss is a function of u_i[θ] = f_i[θ] · strength_i[θ], so that a feature cannot hide by shrinking its
code while its decoder grows: first an entrywise function, then a mean over tokens for each snapshot and feature, then
a sum.
The means are all that is kept of [batch, snapshot, feature]; what stands at single snapshots is made again for the
gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ontogeny.dictionaries.activation_functions import least_kept_score, only_moves_threshold, threshold_slope
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.kernels import Entries, column_sums, decode, read, squared_error
from ontogeny.dictionaries.places import Found
from ontogeny.errors import ConfigError, did_you_mean
from ontogeny.ranks import ALONE, Ranks

STEEPNESS = 4.0
QUADRATIC_SCALE = 0.01
DENSE_ABOVE = 0.1
"""Share of active entries from which on dense products are used."""
ENTRIES_AT_ONCE = 1 << 24
"""Entries times snapshots that stand in memory at once under the gate per snapshot."""
TOKENS_AT_ONCE = 512
"""Tokens whose products with all features stand in memory at once."""


class Losses(NamedTuple):
    """Losses and figures of a batch.

    Attributes:
        reconstruction: squared error summed over d_model and snapshots, mean over tokens; scalar.
        sparsity: the sparsity loss, without its weight; scalar.
        l0: active features a token [snapshot].
        explained_variance: 1 - squared error / variance over the batch [snapshot].
        error: the reconstruction less what it is of [batch, snapshot, d_model].
        fired: whether each feature is active on some token, at some snapshot [feature].
        least_score: the smallest score among active entries, 0 where there is none; scalar, for the shared gate.
    """

    reconstruction: Tensor
    sparsity: Tensor
    l0: Tensor
    explained_variance: Tensor
    error: Tensor
    fired: Tensor
    least_score: Tensor


class Sparsity(NamedTuple):
    """One row of SPARSITY: what is averaged over tokens, and the loss of these means [snapshot, feature]."""

    of_entry: Callable[[Tensor], Tensor] | None
    of_means: Callable[[Float[Tensor, "snapshot feature"]], Tensor]


def steep_tanh(u: Tensor) -> Tensor:
    """tanh(4 u): nearly counts the active entries."""
    return torch.tanh(STEEPNESS * u)


def total(means: Float[Tensor, "snapshot feature"]) -> Float[Tensor, ""]:
    """Σ_i Σ_θ."""
    return means.sum()


def mean_over_snapshots(means: Float[Tensor, "snapshot feature"]) -> Float[Tensor, ""]:
    """Σ_i mean_θ."""
    return means.mean(0).sum()


def quadratic(means: Float[Tensor, "snapshot feature"]) -> Float[Tensor, ""]:
    """Σ_i p_i (1 + p_i / 0.01) with p_i = mean_θ: features that are active often pay more."""
    p = means.mean(0)
    return (p * (1 + p / QUADRATIC_SCALE)).sum()


def nothing(means: Float[Tensor, "snapshot feature"]) -> Float[Tensor, ""]:
    """Zero, for activations that are sparse by themselves."""
    return means.new_zeros(())


SPARSITY: dict[str, Sparsity] = {
    "l1": Sparsity(of_entry=None, of_means=total),
    "tanh": Sparsity(of_entry=steep_tanh, of_means=mean_over_snapshots),
    "tanh_quad": Sparsity(of_entry=steep_tanh, of_means=quadratic),
    "none": Sparsity(of_entry=None, of_means=nothing),
}


def crosscoder_losses(
    dictionary: Crosscoder,
    x: Float[Tensor, "batch snapshot d_model"],
    *,
    sparsity: str = "l1",
    pre: Float[Tensor, "batch feature"] | None = None,
    pre_is_exact: bool = True,
    found: Found | None = None,
    k: int | None = None,
    dense_above: float = DENSE_ABOVE,
    ranks: Ranks = ALONE,
) -> Losses:
    """Losses of a batch in normalised units (raw ones when folded).

    Args:
        sparsity: a row of SPARSITY: `l1`, `tanh`, `tanh_quad` or `none`.
        pre: the batch's encoder outputs where they are known already.
        pre_is_exact: whether they are more than what active entries are found by; if not, codes are made anew.
        found: the active entries of an activation without a learned threshold, where they are known already.
        k: use the training rule with this k instead of the inference rule.
        dense_above: share of active entries from which on dense products are used; never where there are other ranks.
        ranks: the processes that share features, of which `dictionary` has this one's, or tokens, of which `x` has
            them; `fired`, the reconstruction and all gradients are of these alone.
    Raises:
        ConfigError: the sparsity loss is unknown.
    Source: l1 Lindsey et al. 2024; tanh and tanh_quad Anthropic's crosscoder updates of 2025 and arXiv 2509.17196.
    """
    if sparsity not in SPARSITY:
        raise ConfigError(
            f"no sparsity loss '{sparsity}'{did_you_mean(sparsity, SPARSITY)}: there are {', '.join(SPARSITY)}"
        )
    strength, kind = dictionary.strength(), SPARSITY[sparsity]
    if found is None:
        pre = dictionary.pre_activations(x) if pre is None else pre
        places = dictionary.places(pre.detach(), k=k, strength=strength, ranks=ranks)
        outputs = pre.detach().flatten()[places] if pre_is_exact else None
    else:
        places, outputs = found
    if pre is not None and ranks.alone and len(places) > dense_above * pre.numel():
        pre = pre if pre_is_exact else dictionary.pre_activations(x)
        dense = _shared if dictionary.gate == "shared" else _per_snapshot
        passed = dense(dictionary, x, pre, strength, kind, k)
    else:
        entries = Entries.at(places, (len(x), dictionary.n_features))
        z = read(dictionary.encoder_input(x), dictionary.encoder_rows, dictionary.b_enc, known=outputs, entries=entries)
        over_entries = _shared_entries if dictionary.gate == "shared" else _per_snapshot_entries
        passed = over_entries(dictionary, x, z, entries, strength, kind, ranks)
        if pre is not None:
            known = pre.detach()
            if not pre_is_exact:
                passed, known = _found_by_rounded(dictionary, known, places, z.detach(), strength, passed)
            if dictionary.threshold is not None and dictionary.threshold.requires_grad:
                passed = _with_closed(dictionary, known, strength.detach(), kind, passed)
    squared = passed.error.square().sum() if passed.squared is None else passed.squared
    with torch.no_grad():
        explained = 1 - _squares(passed.error.detach()) / _squares(x - x.mean(0))
    return Losses(
        reconstruction=squared / len(x),
        sparsity=ranks.total(kind.of_means(ranks.mean(passed.means))),
        l0=ranks.averaged(ranks.summed(passed.l0)),
        explained_variance=ranks.averaged(explained),
        error=passed.error,
        fired=passed.fired,
        least_score=_least(passed.least_score, ranks),
    )


def _least(score: Tensor, ranks: Ranks) -> Tensor:
    """The least of what each has, which is 0 where it has none."""
    least = ranks.least(torch.where(score > 0, score, torch.inf))
    return torch.where(least.isinf(), 0.0, least)


class _Passed(NamedTuple):
    """x̂ - x [batch, snapshot, d_model], means [snapshot, feature], L0 [snapshot], fired [feature], the least score; and
    the sum of the error's squares, where that has a gradient which the error has not."""

    error: Tensor
    means: Tensor
    l0: Tensor
    fired: Tensor
    least_score: Tensor
    squared: Tensor | None = None


def _squares(x: Float[Tensor, "batch snapshot d_model"]) -> Float[Tensor, " snapshot"]:
    return torch.linalg.vector_norm(x, dim=(0, 2)).square()


def _shared_entries(
    dictionary: Crosscoder,
    x: Tensor,
    z: Tensor,
    entries: Entries,
    strength: Tensor,
    sparsity: Sparsity,
    ranks: Ranks,
) -> _Passed:
    """The shared gate, from encoder outputs at the active entries."""
    (tokens, n_features), n = entries.shape, dictionary.n_snapshots
    weight = dictionary.score_weight(strength).index_select(0, entries.column)
    threshold = None if dictionary.threshold is None else dictionary.threshold.index_select(0, entries.column)
    code = dictionary.activation.of_entries(z, weight=weight, threshold=threshold)
    squared, b_dec = None, dictionary.b_dec.flatten()
    if threshold is None or not threshold.requires_grad:
        squared, error = squared_error(code, dictionary.decoder_rows, b_dec, x.flatten(1), entries=entries, ranks=ranks)
    else:  # closed entries, too, need the error's gradient
        error = ranks.total(decode(code, dictionary.decoder_rows, entries=entries)) + b_dec - x.flatten(1)
    if sparsity.of_means is nothing:
        means = torch.zeros_like(strength)
    elif sparsity.of_entry is None:
        means = column_sums(code, entries=entries) / tokens * strength
    else:
        of_entry = sparsity.of_entry

        def sums_at(code: Tensor, norms: Tensor) -> Tensor:
            return column_sums(of_entry(code * norms.index_select(0, entries.column)), entries=entries)

        means = torch.stack([_made_again(sums_at, code, norms) for norms in strength]) / tokens
    with torch.no_grad():
        active = code > 0
        fired = torch.zeros(n_features, dtype=torch.bool, device=z.device)
        fired[entries.column[active]] = True
        score = torch.where(active, code * weight, torch.inf)
        least = score.min() if len(score) else score.new_tensor(torch.inf)
        l0 = active.sum(dtype=z.dtype) / tokens
    least = torch.where(least.isinf(), 0.0, least)
    return _Passed(error.view(tokens, n, -1), means, l0.expand(n), fired, least, squared)


def _per_snapshot_entries(
    dictionary: Crosscoder,
    x: Tensor,
    z: Tensor,
    entries: Entries,
    strength: Tensor,
    sparsity: Sparsity,
    ranks: Ranks,
) -> _Passed:
    """The gate per snapshot, some tokens at a time: entries are doubled for the snapshots where they are open."""
    assert dictionary.threshold is not None
    thresholds = dictionary.threshold
    (tokens, n_features), n = entries.shape, dictionary.n_snapshots
    fired = torch.zeros(n_features, dtype=torch.bool, device=z.device)

    def some(first: int, last: int, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x̂ [batch, snapshot, d_model], sums over tokens [snapshot, feature], active entries [snapshot]."""
        here = entries.of_rows(first, last)
        row, column = entries.row[here] - first, entries.column[here]
        threshold = thresholds.index_select(0, column)
        with torch.no_grad():
            snapshot, entry = (z[here] * strength.index_select(1, column) > threshold).nonzero(as_tuple=True)
        some_tokens = last - first
        wide = Entries(
            snapshot * some_tokens + row[entry], column[entry] * n + snapshot, (n * some_tokens, n_features * n)
        )
        norms = strength.T.flatten().index_select(0, wide.column)
        code = dictionary.activation.of_entries(
            z[here].index_select(0, entry), weight=norms, threshold=threshold.index_select(0, entry)
        )
        x_hat = decode(code, dictionary.decoder_rows.view(n_features * n, -1), entries=wide)
        u = code * norms if sparsity.of_entry is None else sparsity.of_entry(code * norms)
        sums = column_sums(u, entries=wide).view(n_features, n).T
        with torch.no_grad():
            active = code > 0
            fired[column[entry[active]]] = True
            counts = torch.bincount(snapshot[active], minlength=n).to(z.dtype)
        return x_hat.view(n, some_tokens, -1).transpose(0, 1), sums, counts

    at_once = max(1, min(tokens, ENTRIES_AT_ONCE * tokens // max(1, len(entries) * n)))
    parts = [_made_again(some, first, min(first + at_once, tokens), z) for first in range(0, tokens, at_once)]
    error = ranks.total(torch.cat([part[0] for part in parts])) + dictionary.b_dec - x
    sums, counts = (torch.stack([part[place] for part in parts]).sum(0) for place in (1, 2))
    return _Passed(error, sums / tokens, counts / tokens, fired, z.new_zeros(()))


@torch.no_grad()
def _found_by_rounded(
    dictionary: Crosscoder, pre: Tensor, places: Tensor, z: Tensor, strength: Tensor, passed: _Passed
) -> tuple[_Passed, Tensor]:
    """Where active entries were found by rounded outputs: the least of the scores that they were found by, and the
    outputs that say which other entries are near their thresholds."""
    known = pre.flatten().clone()
    if dictionary.gate == "per_snapshot":
        known[places] = z
    elif len(places):
        score = known[places] * dictionary.score_weight(strength)[places % dictionary.n_features]
        passed = passed._replace(least_score=score.min())
        known[places] = -1.0  # the shared gate has dealt with these entries whole
    return passed, known.view(-1, dictionary.n_features)


def _with_closed(dictionary: Crosscoder, pre: Tensor, strength: Tensor, sparsity: Sparsity, passed: _Passed) -> _Passed:
    """Add what entries that are closed, but near, do to the thresholds."""
    slope = 1.0 if sparsity.of_entry is None else float(torch.func.grad(sparsity.of_entry)(torch.zeros(())))
    error, means = _Closed.apply(passed.error, passed.means, dictionary.threshold, dictionary, pre, strength, slope)  # type: ignore[misc]
    return passed._replace(error=error, means=means)


class _Closed(torch.autograd.Function):
    """Hands the error and the means on; the gradient of what closed entries would add goes to the thresholds near them.

    A closed entry adds f = 0, and ∂f/∂t is not zero near its threshold. What ∂loss/∂f is takes ⟨∂loss/∂x̂, W_dec⟩ at
    every such entry, one dense product, made here for some tokens at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, error: Tensor, means: Tensor, threshold: Tensor, dictionary: Crosscoder, pre: Tensor,
        strength: Tensor, slope: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.save_for_backward(threshold, pre, strength)
        ctx.dictionary, ctx.slope = dictionary, slope
        return error.view_as(error), means.view_as(means)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (of_error, of_means), (threshold, pre, strength) = grads, ctx.saved_tensors
        dictionary: Crosscoder = ctx.dictionary
        of_threshold = torch.zeros_like(threshold)
        if dictionary.gate == "shared":
            gates = [(slice(0, dictionary.n_snapshots), dictionary.score_weight(strength))]
        else:
            gates = [(slice(snapshot, snapshot + 1), norms) for snapshot, norms in enumerate(strength)]
        rows = dictionary.decoder_rows.detach().view(dictionary.n_features, dictionary.n_snapshots, -1)
        for own, weight in gates:
            sums, counts = torch.zeros_like(threshold), torch.zeros_like(threshold)
            W_dec = rows[:, own].flatten(1)
            for first in range(0, len(pre), TOKENS_AT_ONCE):
                some = slice(first, first + TOKENS_AT_ONCE)
                near = only_moves_threshold(pre[some] * weight, threshold)
                sums += ((of_error[some, own].flatten(1) @ W_dec.T) * near).sum(0)
                counts += near.sum(0)
            sums += (of_means[own] * strength[own]).sum(0) * ctx.slope * counts / len(pre)
            of_threshold += sums * threshold_slope(threshold, weight)
        return of_error, of_means, of_threshold, None, None, None, None


def _shared(
    dictionary: Crosscoder, x: Tensor, pre: Tensor, strength: Tensor, sparsity: Sparsity, k: int | None
) -> _Passed:
    """The shared gate by dense products."""
    code = dictionary.activate(pre, k=k)
    if sparsity.of_entry is None:
        means = code.mean(0) * strength
    else:
        of_entry = sparsity.of_entry

        def mean_at(code: Tensor, strength: Tensor) -> Tensor:
            return of_entry(code * strength).mean(0)

        means = torch.stack([_made_again(mean_at, code, norms) for norms in strength])
    least = least_kept_score(code.detach(), dictionary.score_weight(strength))
    l0 = _l0(code).expand(dictionary.n_snapshots)
    return _Passed(dictionary.decode(code) - x, means, l0, (code > 0).any(0), least)


def _per_snapshot(
    dictionary: Crosscoder, x: Tensor, pre: Tensor, strength: Tensor, sparsity: Sparsity, k: int | None
) -> _Passed:
    """The gate per snapshot by dense products, snapshot by snapshot."""

    def at(snapshot: int, pre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        code = dictionary.code_at(pre, snapshot, strength=strength)
        u = code * strength[snapshot]
        means = u.mean(0) if sparsity.of_entry is None else sparsity.of_entry(u).mean(0)
        return dictionary.decode_at(code, snapshot), means, _l0(code)

    parts = [_made_again(at, snapshot, pre) for snapshot in range(dictionary.n_snapshots)]
    x_hat, means = (torch.stack([part[place] for part in parts], dim=1 - place) for place in (0, 1))
    with torch.no_grad():
        fired, l0 = (dictionary.widest_code(pre) > 0).any(0), torch.stack([part[2] for part in parts])
    return _Passed(x_hat - x, means, l0, fired, pre.new_zeros(()))


@torch.no_grad()
def _l0(code: Tensor) -> Tensor:
    """Active features a token; a scalar."""
    return (code > 0).sum(-1, dtype=code.dtype).mean()


def _made_again(function: Callable, *inputs: object) -> Any:
    """Call a function whose inner tensors are not kept for the gradient but made again."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
