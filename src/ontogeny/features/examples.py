"""The leading contexts of every feature, kept while a corpus passes by, in bounded memory."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class Leaders:
    """For each feature the `rank` sequences with the highest scores so far, one entry a sequence.

    An entry keeps the values around its peak, so that no second pass is needed.

    Attributes:
        score: [feature, rank]; -inf where there is no entry yet.
        sequence: [feature, rank].
        position: [feature, rank] of the peak.
        values: [feature, rank, place] from `before` tokens before the peak to `after` tokens after it; nan outside.
    """

    score: Tensor
    sequence: Tensor
    position: Tensor
    values: Tensor
    before: int

    @classmethod
    def empty(cls, n_features: int, ranks: int, *, before: int, after: int, device: torch.device) -> "Leaders":
        return cls(
            score=torch.full((n_features, ranks), -torch.inf, device=device),
            sequence=torch.full((n_features, ranks), -1, dtype=torch.int64, device=device),
            position=torch.zeros((n_features, ranks), dtype=torch.int64, device=device),
            values=torch.full((n_features, ranks, before + 1 + after), torch.nan, device=device),
            before=before,
        )

    def update(
        self,
        score: Float[Tensor, "sequence feature"],
        values: Float[Tensor, "sequence position feature"],
        sequences: Int[Tensor, " sequence"],
    ) -> None:
        """Let some sequences compete.

        Args:
            score: what each sequence competes by; -inf to stay out.
            values: their values at each position; -inf where a position does not count.
            sequences: their indices in the corpus.
        """
        ranks = self.score.shape[1]
        changed = (score.amax(0) > self.score.amin(1)).nonzero().squeeze(1)
        if len(changed) == 0:
            return
        joined = torch.cat([self.score[changed], score[:, changed].T], dim=1)
        top, place = joined.topk(ranks, dim=1)
        entered = (place >= ranks) & (top > -torch.inf)
        old = place.clamp_max(ranks - 1)
        new = (place - ranks).clamp_min(0)
        kept_sequence, kept_position = self.sequence[changed].gather(1, old), self.position[changed].gather(1, old)
        kept_values = self.values[changed].gather(1, old[..., None].expand(-1, -1, self.values.shape[2]))
        row, rank = entered.nonzero(as_tuple=True)
        from_sequence, feature = new[row, rank], changed[row]
        along = values[from_sequence, :, feature]
        peak = along.argmax(1)
        kept_sequence[row, rank] = sequences[from_sequence]
        kept_position[row, rank] = peak
        kept_values[row, rank] = _around(along, peak, self.before, self.values.shape[2])
        self.score[changed], self.sequence[changed] = top, kept_sequence
        self.position[changed], self.values[changed] = kept_position, kept_values

    def state(self) -> dict[str, Tensor]:
        return {"score": self.score, "sequence": self.sequence, "position": self.position, "values": self.values}

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, saved in state.items():
            getattr(self, name).copy_(saved)


def _around(
    along: Float[Tensor, "entry position"], peak: Int[Tensor, " entry"], before: int, length: int
) -> Float[Tensor, "entry place"]:
    """Values from `before` positions before each peak on; nan outside the sequence and where a value is -inf."""
    at = peak[:, None] + torch.arange(length, device=along.device) - before
    inside = (at >= 0) & (at < along.shape[1])
    values = along.gather(1, at.clamp(0, along.shape[1] - 1))
    return values.masked_fill(~inside | values.isinf(), torch.nan)
