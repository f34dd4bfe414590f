"""A run's batches where several processes train together: each harvests some of the snapshots, and all get them all."""

from collections.abc import Iterator
from itertools import islice

from jaxtyping import Float
from torch import Tensor

from ontogeny.activations.stream import stream_of
from ontogeny.ranks import Ranks
from ontogeny.run import Run
from ontogeny.suites.suite import suite_of


class SharedStream:
    """The same batches [batch, snapshot, d_model] as the run's own stream, in each process."""

    def __init__(self, run: Run, ranks: Ranks) -> None:
        suite = suite_of(run)
        self.ranks, self.n_snapshots = ranks, len(suite.snapshots)
        own = ranks.snapshots(self.n_snapshots)
        self.n_own = own.stop - own.start
        places = range(own.start, own.stop) if self.n_own else [0]  # whoever has none needs the shapes
        self.own = stream_of(run, suite=suite.only(list(places)), stored=False)

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[Float[Tensor, "batch snapshot d_model"]]:
        return islice(self.starting_at(0), len(self))

    def starting_at(self, batch: int) -> Iterator[Float[Tensor, "batch snapshot d_model"]]:
        """Batches from number `batch` on, without end."""
        for rows in self.own.starting_at(batch):
            yield self.ranks.all_snapshots(rows[:, : self.n_own], self.n_snapshots)
