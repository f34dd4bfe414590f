"""How well a dictionary reconstructs, per snapshot, on held-out tokens: position 0 and padding left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.activations.harvest import Harvester
from ontogeny.config.study import MeasureConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.losses import crosscoder_losses
from ontogeny.features.measure import Measurement, chosen_sequences, chunks_of, products
from ontogeny.loop import numerics
from ontogeny.progress import progress_bar


@dataclass
class Reconstruction:
    """Sums over held-out tokens, the code by the inference rule.

    Attributes:
        crosscoder: what reconstructs.
        tokens: usable tokens seen.
        error: squared error [snapshot].
        ratio: squared error over squared distance from the centre, token by token [snapshot].
        active: active features [snapshot].
        fired: features active on any token, at any snapshot [feature].
        centre: what the next two are taken about, in normalised units [snapshot, d_model].
        x_sum: activations less the centre [snapshot, d_model].
        x_products: their outer products [snapshot, d_model, d_model].
        norms, distances: of the activations, and from the centre [token, snapshot], in the parts they were seen in.
    """

    crosscoder: Crosscoder
    tokens: int
    error: Tensor
    ratio: Tensor
    active: Tensor
    fired: Tensor
    centre: Tensor
    x_sum: Tensor
    x_products: Tensor
    norms: list[Tensor]
    distances: list[Tensor]

    @classmethod
    def begun(cls, crosscoder: Crosscoder, centre: Float[Tensor, "snapshot d_model"] | None) -> Self:
        """Before any token; the centre is b_dec where None is given."""
        n, d, device = crosscoder.n_snapshots, crosscoder.d_model, crosscoder.b_dec.device
        error, ratio, active = torch.zeros(3, n, dtype=torch.float64, device=device)
        return cls(
            crosscoder, 0, error, ratio, active,
            fired=torch.zeros(crosscoder.n_features, dtype=torch.bool, device=device),
            centre=crosscoder.b_dec if centre is None else centre,
            x_sum=torch.zeros(n, d, dtype=torch.float64, device=device),
            x_products=torch.zeros(n, d, d, dtype=torch.float64, device=device),
            norms=[], distances=[],
        )  # fmt: skip

    def add(self, x: Float[Tensor, "token snapshot d_model"]) -> None:
        """Take usable tokens' activations, in normalised units."""
        losses = crosscoder_losses(self.crosscoder, x, sparsity="none")
        errors, centred = losses.error.square().sum(-1), x - self.centre
        self.error += errors.sum(0, dtype=torch.float64)
        self.ratio += (errors / centred.square().sum(-1)).sum(0, dtype=torch.float64)
        self.active += (losses.l0.double() * len(x)).round()
        self.fired |= losses.fired
        self.x_sum += centred.sum(0, dtype=torch.float64)
        self.x_products += products(centred)
        self.norms.append(x.norm(dim=-1))
        self.distances.append(centred.norm(dim=-1))
        self.tokens += len(x)

    def rescaling(self, normalisation: str) -> Float[Tensor, " snapshot"]:
        """What normalised units would have to be multiplied by to be those of a normalisation, `mean` or `robust`."""
        mean = normalisation == "mean"
        size = torch.cat(self.norms).mean(0) if mean else torch.cat(self.distances).median(0).values
        return self.centre.shape[1] ** 0.5 / size

    @property
    def variance(self) -> Float[Tensor, " snapshot"]:
        """Squared distance from the mean, summed over tokens."""
        return self.x_products.diagonal(dim1=1, dim2=2).sum(1) - self.x_sum.square().sum(1) / self.tokens

    @property
    def mean(self) -> Float[Tensor, "snapshot d_model"]:
        """Mean of the activations, in normalised units."""
        return self.centre + (self.x_sum / self.tokens).float()

    @property
    def explained_variance(self) -> Float[Tensor, " snapshot"]:
        return 1 - self.error / self.variance

    @property
    def l0(self) -> Float[Tensor, " snapshot"]:
        return self.active / self.tokens

    @property
    def silent_share(self) -> float:
        """Share of the features that fired on none of the tokens."""
        return 1 - float(self.fired.double().mean())

    def explained_by(self, directions: Float[Tensor, "snapshot d_model component"]) -> Float[Tensor, " snapshot"]:
        """Explained variance of as many leading directions as the code has active features, about the centre."""
        explained = []
        for products_, basis, count in zip(self.x_products, directions, self.l0.round().long().tolist(), strict=True):
            kept = basis[:, : max(count, 1)]
            explained.append(products_.trace() - torch.einsum("dc,de,ec->", kept, products_, kept))
        return 1 - torch.stack(explained) / self.variance


def reconstruct_held_out(
    crosscoder: Crosscoder,
    harvester: Harvester,
    held_out: Corpus,
    config: MeasureConfig,
    *,
    centre: Float[Tensor, "snapshot d_model"] | None = None,
) -> Reconstruction:
    """Reconstruct held-out tokens at every snapshot.

    Args:
        centre: what per-token ratios are taken about, in normalised units: the mean of other tokens; None for b_dec.
    """
    return _read(held_out, harvester, config, [Reconstruction.begun(crosscoder, centre)])[0]


def reconstruct_together(
    crosscoders: Sequence[Crosscoder], harvester: Harvester, held_out: Corpus, config: MeasureConfig
) -> list[Reconstruction]:
    """Reconstruct held-out tokens by several crosscoders of the same snapshots; the models read them once."""
    return _read(held_out, harvester, config, [Reconstruction.begun(each, None) for each in crosscoders])


@torch.no_grad()
def _read(
    held_out: Corpus, harvester: Harvester, config: MeasureConfig, sums: list[Reconstruction]
) -> list[Reconstruction]:
    first = sums[0].crosscoder
    places = {"tokens": config.held_out_tokens, "sequences_at_once": config.model_batch_size, "seed": config.seed}
    with numerics(), progress_bar("quality", len(chosen_sequences(held_out, **places)), unit="chunks") as bar:
        for chunk in chunks_of(first, harvester, held_out, **places):
            x = chunk.x[chunk.usable.flatten()]
            for each in sums:
                units = each.crosscoder.norm_scale / first.norm_scale
                each.add(x * units[:, None] if each is not sums[0] else x)
            bar.advance(1)
    return sums


def quality_table(
    reconstruction: Reconstruction,
    measurement: Measurement,
    splices: pl.DataFrame,
    *,
    steps: list[int],
    rescaling: Float[Tensor, " snapshot"],
) -> pl.DataFrame:
    """The table `quality`.

    Args:
        measurement: of the same dictionary; its silent features are the dead ones, its principal directions the PCA.
        splices: what `measure_splices` found, a row per snapshot.
        rescaling: factors from the dictionary's normalised units to those of the other normalisation.
    """
    n = len(steps)
    return pl.DataFrame(
        {
            "snapshot": range(n),
            "step": steps,
            "explained_variance": reconstruction.explained_variance.tolist(),
            "explained_variance_per_token": (1 - reconstruction.ratio / reconstruction.tokens).tolist(),
            "pca_explained_variance": reconstruction.explained_by(measurement.principal_directions()).tolist(),
            "l0": reconstruction.l0.tolist(),
            "dead_share": (measurement.active_at == 0).double().mean(1).expand(n).tolist(),
            "silent_share": [reconstruction.silent_share] * n,
            "ultra_low_share": [float(ultra_low(measurement).double().mean())] * n,
            "norm_scale": measurement.crosscoder.norm_scale.tolist(),
            "other_norm_scale": (measurement.crosscoder.norm_scale * rescaling).tolist(),
            "tokens": [reconstruction.tokens] * n,
        }
    ).hstack(splices)


def ultra_low(measurement: Measurement) -> Tensor:
    """Features that are not dead but nearly so [feature]: density under 1e-6, or a greatest code under 1 % of the
    median feature's."""
    living = measurement.active > 0
    least = 0.01 * measurement.code_max[living].median() if living.any() else 0.0
    return living & ((measurement.active / measurement.tokens < 1e-6) | (measurement.code_max < least))
