"""What one snapshot knows of a feature: AUC of its activations alone, beside what the token alone tells.

A shared code reads all snapshots, the last one too, so that it may be known where an early model knows nothing of it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

RIDGE = 1e-3
"""Penalty of the probe, as a share of the mean variance of its inputs."""


def linear_probe(
    x: Float[Tensor, "token d_model"], active: Bool[Tensor, "token feature"]
) -> tuple[Float[Tensor, "d_model feature"], Float[Tensor, " d_model"]]:
    """Ridge regression of "is active" on activations.

    Returns:
        Weights, and the mean to subtract first.
    """
    mean = x.mean(0)
    centred = (x - mean).double()
    gram = centred.T @ centred
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    return torch.linalg.solve(gram, centred.T @ active.double()).to(x.dtype), mean


def token_rates(
    token: Int[Tensor, " token"], active: Bool[Tensor, "token feature"], *, vocabulary: int
) -> Float[Tensor, "vocabulary feature"]:
    """How often each feature is active on each token of the vocabulary, drawn towards its mean by one token's worth."""
    sums = torch.zeros(vocabulary, active.shape[1]).index_add_(0, token, active.float())
    counts = torch.bincount(token, minlength=vocabulary)[:, None]
    return (sums + active.float().mean(0)) / (counts + 1)


def refit_strength(
    x: Float[Tensor, "token d_model"],
    codes: Float[Tensor, "feature token"],
    W_dec: Float[Tensor, "feature d_model"],
    b_dec: Float[Tensor, " d_model"],
    *,
    for_test: Bool[Tensor, " token"],
) -> np.ndarray:
    """Norm of what least squares gives each feature for what all the others leave [feature].

    A decoder shrunken by a penalty is weaker than this; where it was shrunken to nothing, a feature that is there looks
    as if it were not born yet. The scatter of the fit cancels: the norm is √⟨a, b⟩ of the rows fitted on two halves of
    the tokens, 0 where that is negative and nan where a feature is silent on a half.

    Args:
        x: activations of one snapshot in normalised units.
        codes: sparse.
        W_dec: decoder rows of the snapshot.
        for_test: the second half.
    Source: latent scaling, Minder et al. 2025, arXiv 2504.02922, with a row in place of a factor.
    """
    residual = x - torch.sparse.mm(codes.T, W_dec) - b_dec
    halves = []
    for half in (~for_test, for_test):
        square = torch.sparse.mm(codes * codes, half.to(x.dtype)[:, None])
        halves.append(W_dec + torch.sparse.mm(codes, residual * half[:, None]) / square)
    product = (halves[0] * halves[1]).sum(1).nan_to_num(float("nan"), float("nan"), float("nan"))
    return product.clamp_min(0).sqrt().numpy()


def auc(score: Float[Tensor, "token feature"], active: Bool[Tensor, "token feature"]) -> np.ndarray:
    """Area under the ROC curve [feature]; ties count half; nan where a feature is active on all tokens or on none.

    Source: the Mann–Whitney statistic, by mid-ranks.
    """
    tokens, n_features = score.shape
    areas = np.full(n_features, np.nan)
    ordered = score.T.contiguous().sort(dim=1).values
    of_feature, is_active = score.T.contiguous(), active.T.contiguous()
    for feature in range(n_features):
        positive = of_feature[feature][is_active[feature]]
        n = len(positive)
        if not 0 < n < tokens:
            continue
        low = torch.searchsorted(ordered[feature], positive)
        high = torch.searchsorted(ordered[feature], positive, right=True)
        ranks = float((low + high + 1).double().sum()) / 2
        areas[feature] = (ranks - n * (n + 1) / 2) / (n * (tokens - n))
    return areas


def auc_error(area: np.ndarray, positives: np.ndarray, tokens: int) -> np.ndarray:
    """Standard error of areas under the ROC curve. Source: Hanley and McNeil 1982."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    n, m = np.maximum(positives, 1), np.maximum(tokens - positives, 1)
    variance = area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)
    return np.sqrt(np.maximum(variance, 0) / (n * m))


def there_before(
    refit: Float[np.ndarray, "snapshot feature"],
    strength: Float[np.ndarray, "snapshot feature"],
    birth: Int[np.ndarray, " feature"],
    *,
    alive_threshold: float,
) -> Float[np.ndarray, " feature"]:
    """Whether features are alive just before their births by their refitted strengths: shrunken, not absent.

    The refitted strength has to be alive, and by `SHRUNKEN` of the greatest above the learned one, so that a slow rise
    that passes the threshold is none.

    Args:
        refit: of `refit_strength`.
        strength: as learned.
        birth: snapshot of each birth.
    Returns:
        1 or 0 [feature]; nan where the birth is the first snapshot or the refit is not known.
    """
    feature, before = np.arange(refit.shape[1]), np.maximum(birth - 1, 0)
    greatest = np.nan_to_num(refit, nan=0.0).max(0)
    refitted = refit[before, feature] / np.maximum(greatest, 1e-12)
    learned = strength[before, feature] / np.maximum(strength.max(0), 1e-12)
    shrunken = (refitted >= alive_threshold) & (refitted - learned >= SHRUNKEN)
    return np.where((birth > 0) & ~np.isnan(refitted), shrunken, np.nan)


SHRUNKEN = 0.15


@dataclass(frozen=True)
class Confirmation:
    """Whether births are seen from their own snapshot alone.

    Attributes:
        rise: how much the area above the baseline rises in the interval of the birth [feature]; nan without a birth.
        error: its standard error [feature].
        testable: whether it could rise by so much: not where the token alone tells nearly all [feature].
        confirmed: whether it rises by more than chance and by at least `LEAST_RISE` [feature].
    """

    rise: np.ndarray
    error: np.ndarray
    testable: np.ndarray
    confirmed: np.ndarray


LEAST_RISE = 0.02
CERTAIN = 1.645
"""Standard errors of a one-sided test at 5 %."""


def confirm_births(
    areas: Float[np.ndarray, "snapshot feature"],
    baseline: Float[np.ndarray, " feature"],
    birth: Int[np.ndarray, " feature"],
    *,
    positives: Int[np.ndarray, " feature"],
    tokens: int,
) -> Confirmation:
    """A birth is confirmed where what the snapshot alone knows, above the token's baseline, rises in the same interval.

    Args:
        areas: of probes on each snapshot alone.
        baseline: area of the token's identity; at least .5.
        birth: snapshot of each birth; 0 or less where there is none to confirm.
        positives, tokens: active and all tokens that areas were measured on.
    """
    feature = np.arange(areas.shape[1])
    born = birth > 0
    later, before = areas[np.maximum(birth, 0), feature], areas[np.maximum(birth - 1, 0), feature]
    floor = np.maximum(np.nan_to_num(baseline, nan=0.5), 0.5)
    rise = np.maximum(later, floor) - np.maximum(before, floor)
    error = np.hypot(auc_error(later, positives, tokens), auc_error(before, positives, tokens))
    testable = born & (1 - floor >= np.maximum(LEAST_RISE, CERTAIN * error))
    confirmed = testable & (rise >= LEAST_RISE) & (rise > CERTAIN * error)
    return Confirmation(np.where(born, rise, np.nan), np.where(born, error, np.nan), testable, confirmed)
