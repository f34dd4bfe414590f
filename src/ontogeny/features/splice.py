"""What the model's loss becomes when it goes on from the dictionary's reconstruction: splicing, and loss recovered.

The codes of a sample of held-out tokens are made once and kept sparse; then the snapshots' models are loaded whole, one
at a time, and run three times: as they are, with the reconstruction in place of the activations, and with their mean.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from ontogeny.activations.stream import Harvester
from ontogeny.config import MeasureConfig
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.features.measure import Chunk, chosen_sequences, chunks_of
from ontogeny.loop import numerics
from ontogeny.models.hookpoints import spliced
from ontogeny.models.load import load_snapshot
from ontogeny.models.pretrain import next_token_losses, padded
from ontogeny.progress import progress_bar
from ontogeny.suites.suite import Suite

LEAST_DENOMINATOR = 0.1
"""Loss recovered is left out where mean-ablation costs less than this, in nat."""


@dataclass
class CodeSample:
    """The codes of some held-out sequences.

    Attributes:
        sequences: indices into the held-out corpus, chunk by chunk [sequence].
        usable: positions that count, chunk by chunk [sequence, position].
        codes: `widest_code`, sparse, chunk by chunk [sequence·position, feature].
    """

    sequences: list[np.ndarray]
    usable: list[Tensor]
    codes: list[Tensor]

    def table(self) -> pl.DataFrame:
        """The table `codes`."""
        parts = []
        for sequences, usable, codes in zip(self.sequences, self.usable, self.codes, strict=True):
            row, feature = codes.indices().cpu().numpy()
            length = usable.shape[1]
            parts.append(
                pl.DataFrame(
                    {
                        "sequence": sequences[row // length].astype(np.int32),
                        "position": (row % length).astype(np.int16),
                        "feature": feature.astype(np.int32),
                        "code": codes.values().cpu().numpy(),
                    }
                )
            )
        return pl.concat(parts)


@torch.no_grad()
def sample_codes(crosscoder: Crosscoder, harvester: Harvester, held_out: Corpus, config: MeasureConfig) -> CodeSample:
    """Codes of the first `config.sample_tokens` of the held-out tokens in their drawn order."""
    sample = CodeSample([], [], [])
    places = {"tokens": config.sample_tokens, "sequences_at_once": config.model_batch_size, "seed": config.seed}
    chunks = chosen_sequences(held_out, **places)
    with numerics(), progress_bar("codes", len(chunks), unit="chunks") as bar:
        for chunk in chunks_of(crosscoder, harvester, held_out, **places):
            sample.sequences.append(chunk.sequences.cpu().numpy())
            sample.usable.append(chunk.usable)
            sample.codes.append(_sparse_code(crosscoder, chunk))
            bar.advance(1)
    return sample


def _sparse_code(crosscoder: Crosscoder, chunk: Chunk) -> Tensor:
    code = crosscoder.widest_code(crosscoder.pre_activations(chunk.x))
    return code.mul_(chunk.usable.view(-1, 1)).to_sparse()


@torch.no_grad()
def measure_splices(
    crosscoder: Crosscoder,
    suite: Suite,
    held_out: Corpus,
    sample: CodeSample,
    *,
    harvester: Harvester,
    centre: Float[Tensor, "snapshot d_model"],
) -> pl.DataFrame:
    """A row per snapshot: ce_clean, ce_spliced, ce_mean_ablated, delta_ce, loss_recovered, splice_tokens.

    Cross-entropies in nat a token over the tokens predicted from replaced positions: position 0 stays as it is.

    Args:
        sample: codes of the sequences to run.
        harvester: says where the activations are and in what dtype and on which device the models run.
        centre: mean activations in normalised units, for the ablation.
    """
    rows = []
    strength = crosscoder.strength()
    with numerics(), progress_bar("splice", len(suite.snapshots), unit="snapshots") as bar:
        for index, snapshot in enumerate(suite.snapshots):
            model = load_snapshot(snapshot, dtype=harvester.dtype, device=harvester.device)
            sums, tokens = np.zeros(3), 0
            for sequences, usable, codes in zip(sample.sequences, sample.usable, sample.codes, strict=True):
                code = codes.to_dense()
                if crosscoder.gate == "per_snapshot":
                    code = crosscoder.code_at(code, index, strength=strength)
                x_hat = crosscoder.decode_at(code, index) / crosscoder.norm_scale[index]
                mean = (centre[index] / crosscoder.norm_scale[index]).expand_as(x_hat)
                batch = padded(held_out, sequences).to(harvester.device)
                counted = batch[:, 2:] >= 0
                for place, replacement in enumerate((None, x_hat, mean)):

                    def replace(x: Tensor, by: Tensor | None = replacement, where: Tensor = usable) -> Tensor:
                        return x if by is None else torch.where(where[..., None], by.view_as(x).to(x.dtype), x)

                    with spliced(model, harvester.hookpoint, replace):
                        logits = model(input_ids=batch.clamp_min(0)).logits
                    sums[place] += float(next_token_losses(logits, batch)[:, 1:][counted].sum(dtype=torch.float64))
                tokens += int(counted.sum())
            clean, with_x_hat, ablated = (float(total / tokens) for total in sums)
            rows.append(
                {
                    "ce_clean": clean,
                    "ce_spliced": with_x_hat,
                    "ce_mean_ablated": ablated,
                    "delta_ce": with_x_hat - clean,
                    "loss_recovered": loss_recovered(clean, with_x_hat, ablated),
                    "splice_tokens": tokens,
                }
            )
            bar.advance(1, delta_ce=with_x_hat - clean)
    return pl.DataFrame(rows, schema_overrides={"loss_recovered": pl.Float64})


def loss_recovered(clean: float, with_x_hat: float, ablated: float) -> float | None:
    """(CE mean-ablated - CE spliced) / (CE mean-ablated - CE clean); None where there is hardly a loss to recover."""
    if ablated - clean < LEAST_DENOMINATOR:
        return None
    return (ablated - with_x_hat) / (ablated - clean)
