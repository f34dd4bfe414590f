"""Adam for matrices of rows whose gradients are left as entries: they are made and used up at once, row by row."""

from typing import Any

import torch
from torch import Tensor

from ontogeny.dictionaries.backends import Backend, backend_for
from ontogeny.dictionaries.kernels import Entries, Left, with_radial
from ontogeny.dictionaries.rounding import bfloat16_at_random, random_bits
from ontogeny.ranks import ALONE, Ranks

MOMENTS = ("exp_avg", "exp_avg_sq")
VALUES_AT_ONCE = 1 << 22
"""Weights whose moments are float32 at once where they are kept as less."""


class Adam(torch.optim.Adam):
    """PyTorch's fused Adam; gradients of the `rows` parameters that entries give are made and used up at once.

    What is left to it, gradients of norms too, is used up by `step`; a gradient that is there beside it is added first.

    Args:
        moments: dtype of both moments of the `rows` parameters; bfloat16 ones are rounded at random.
        ranks: replicas among them average their gradients, which then are all made.
        first: number of the first row among those of all processes.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, rows: list[torch.nn.Parameter], moments: torch.dtype = torch.float32,
        ranks: Ranks = ALONE, first: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(groups, fused=True)
        self.rows, self.moments, self.ranks, self.first = rows, moments, ranks, first
        for one in rows:
            one.left, one.radial = [], None  # type: ignore[attr-defined]

    def release(self) -> None:
        """Leave no gradient to this optimiser any more."""
        for one in self.rows:
            del one.left, one.radial  # type: ignore[attr-defined]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Moments stay as they are; PyTorch would bring them to the dtype of their parameter."""
        every = [one for group in self.param_groups for one in group["params"]]
        state, moments = dict(state_dict["state"]), {}
        for number, one in enumerate(every):
            if number in state and hasattr(one, "left"):
                moments[one] = {name: state[number][name] for name in MOMENTS}
                state[number] = {name: value for name, value in state[number].items() if name not in MOMENTS}
        super().load_state_dict({**state_dict, "state": state})
        for one, saved in moments.items():
            copied = {name: value.to(one.device, self.moments, copy=True) for name, value in saved.items()}
            self.state[one].update(copied)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step."""
        for group in self.param_groups:
            for one in group["params"]:
                left: list[Left] = getattr(one, "left", [])
                radial: Tensor | None = getattr(one, "radial", None)
                alone = left and one.grad is None and self.ranks.replicas == 1
                if alone and (backend := backend_for(one, *(tensor for each in left for tensor in each[1:]))):
                    self._step_over_entries(one, group, _joined(left), radial, backend)
                else:
                    for entries, rows, weight in left:
                        made = entries.sums_by_column(rows, weight)
                        one.grad = made if one.grad is None else one.grad.add_(made)
                    if radial is not None:
                        one.grad = with_radial(one.grad, one, radial)
                    if one.grad is not None:
                        one.grad = self.ranks.averaged(one.grad)
                    if hasattr(one, "left") and one.grad is not None and self.moments != torch.float32:
                        self._step_rounded(one, group)
                if hasattr(one, "left"):
                    one.left, one.radial = [], None
        super().step()

    def _step_over_entries(
        self, one: Tensor, group: dict[str, Any], left: Left, radial: Tensor | None, backend: Backend
    ) -> None:
        entries, rows, weight = left
        order, starts, mean, square, numbers = entries.by_column, entries.column_starts, *self._begin(one, group)
        backend.adam(rows, entries.row[order], weight[order], starts, one, mean, square, radial, **numbers)

    def _step_rounded(self, one: Tensor, group: dict[str, Any]) -> None:
        """The same with a gradient that is in memory; it is used up."""
        assert one.grad is not None
        grad, (mean, square, numbers) = one.grad, self._begin(one, group)
        one.grad = None
        at_once = max(1, VALUES_AT_ONCE // one.shape[1])
        for first in range(0, len(one), at_once):
            some = slice(first, first + at_once)
            before = numbers["before"] + first * one.shape[1]
            adam(grad[some], one[some], mean[some], square[some], **numbers | {"before": before})

    def _begin(self, one: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Both moments, and the numbers of the step that is begun."""
        state = self.state[one]
        if not state:  # as PyTorch begins
            state["step"] = torch.zeros((), dtype=torch.float32, device=one.device)
            for name in MOMENTS:
                state[name] = torch.zeros_like(one, dtype=self.moments)
        state["step"] += 1
        (beta1, beta2), step = group["betas"], int(state["step"])
        numbers = {
            "rate": group["lr"] / (1 - beta1**step), "beta1": beta1, "beta2": beta2, "eps": group["eps"],
            "root": (1 - beta2**step) ** 0.5, "seed": step, "before": self.first * one.shape[1],
        }  # fmt: skip
        return state["exp_avg"], state["exp_avg_sq"], numbers


def adam(
    grad: Tensor, value: Tensor, mean: Tensor, square: Tensor,
    *, rate: float, beta1: float, beta2: float, eps: float, root: float, seed: int, before: int,
) -> None:  # fmt: skip
    """A step of Adam with bfloat16 moments, by the numbers of `Backend.adam`."""
    m = torch.lerp(mean.float(), grad, 1 - beta1)
    s = square.float() * beta2 + grad.square() * (1 - beta2)
    value -= rate * m / (s.sqrt() / root + eps)
    bits = random_bits(torch.arange(before, before + grad.numel(), device=grad.device).view_as(grad), seed)
    mean.copy_(bfloat16_at_random(m, bits & 0xFFFF))
    square.copy_(bfloat16_at_random(s, bits >> 16))


def _joined(left: list[Left]) -> Left:
    """Gradients that were left by several, as one."""
    if len(left) == 1:
        return left[0]
    rows, weight = torch.cat([one.rows for one in left]), torch.cat([one.weight for one in left])
    before = 0
    row = []
    for one in left:
        row.append(one.entries.row + before)
        before += len(one.rows)
    column = torch.cat([one.entries.column for one in left])
    return Left(Entries(torch.cat(row), column, (before, left[0].entries.shape[1])), rows, weight)
