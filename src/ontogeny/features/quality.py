"""How well a dictionary reconstructs: explained variance, L0 and dead share per snapshot, on held-out tokens."""

import polars as pl
import torch

from ontogeny.activations.stream import Harvester
from ontogeny.config import MeasureConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.losses import crosscoder_losses
from ontogeny.features.measure import Measurement, chosen_sequences, chunks_of
from ontogeny.loop import numerics
from ontogeny.progress import progress_bar


@torch.no_grad()
def measure_quality(
    crosscoder: Crosscoder,
    harvester: Harvester,
    held_out: Corpus,
    measurement: Measurement,
    config: MeasureConfig,
    *,
    steps: list[int],
) -> pl.DataFrame:
    """The table `quality`: position 0 and padding left out, the code by the inference rule.

    Args:
        measurement: of the same dictionary; its mean activations centre the per-token ratios, its silent features
            are the dead ones.
    """
    n = crosscoder.n_snapshots
    places = {"tokens": config.held_out_tokens, "sequences_at_once": config.model_batch_size, "seed": config.seed}
    center = (measurement.x_sum / measurement.tokens).float()
    x_sum = torch.zeros(n, crosscoder.d_model, dtype=torch.float64, device=center.device)
    x_square, error, ratio = torch.zeros(3, n, dtype=torch.float64, device=center.device)
    active, tokens = torch.zeros(n, dtype=torch.int64, device=center.device), 0
    with numerics(), progress_bar("quality", len(chosen_sequences(held_out, **places)), unit="chunks") as bar:
        for chunk in chunks_of(crosscoder, harvester, held_out, **places):
            x = chunk.x[chunk.usable.flatten()]
            losses = crosscoder_losses(crosscoder, x, sparsity="none")
            errors = (x - losses.x_hat).square().sum(-1)
            x_sum += x.sum(0, dtype=torch.float64)
            x_square += x.double().square().sum((0, 2))
            error += errors.sum(0, dtype=torch.float64)
            ratio += (errors / (x - center).square().sum(-1)).sum(0, dtype=torch.float64)
            active += (losses.l0.double() * len(x)).round().long()
            tokens += len(x)
            bar.advance(1)
    variance = x_square - x_sum.square().sum(-1) / tokens
    return pl.DataFrame(
        {
            "snapshot": range(n),
            "step": steps,
            "explained_variance": (1 - error / variance).tolist(),
            "explained_variance_per_token": (1 - ratio / tokens).tolist(),
            "l0": (active / tokens).tolist(),
            "dead_share": [float((measurement.active == 0).double().mean())] * n,
            "norm_scale": crosscoder.norm_scale.tolist(),
            "tokens": [tokens] * n,
        }
    )
