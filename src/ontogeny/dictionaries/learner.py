"""What a crosscoder learns from a batch: the learner that the one training loop runs."""

import math
from typing import Any

import torch
from torch import Tensor

from ontogeny.config.learner import CrosscoderConfig
from ontogeny.dictionaries import places
from ontogeny.dictionaries.adam import Adam
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.kernels import rows_at
from ontogeny.dictionaries.losses import DENSE_ABOVE, Losses, crosscoder_losses
from ontogeny.dictionaries.places import Found, Rounded, rounded_outputs
from ontogeny.dictionaries.start import FEATURE_AXES, settings_of
from ontogeny.errors import TrainingError
from ontogeny.ranks import ALONE, Ranks

RATE_TIMES_WIDTH, MOST_LEARNING_RATE = 3.0, 6e-3
PATIENCE, LEAST_PATIENCE = 1 / 200, 10_000
"""Silence after which a feature counts as dead: share of the training's tokens, and tokens."""
AUX_K = 256
"""Dead features that reconstruct a token's residual where the activation has no k."""
REACH_EVERY = 10
"""Steps from one time that dead features are brought within AuxK's reach to the next."""
PARAMETERS = ("encoder_rows", "decoder_rows", "b_enc", "b_dec", "learned")
"""In the order of the optimiser's state; `learned` are JumpReLU's thresholds."""


def learning_rate_of(config: CrosscoderConfig, *, n_snapshots: int, d_model: int) -> float:
    """The learning rate asked for, or one that suits the width of what an encoder reads.

    Adam moves every weight by about the rate, so an encoder output by about the rate times the snapshots · d_model
    values that it sums over. The published rates of arXiv 2509.17196 follow the same rule: 1.2 and 1.3 over that width.
    """
    return config.learning_rate or min(MOST_LEARNING_RATE, RATE_TIMES_WIDTH / (n_snapshots * d_model))


def patience_of(config: CrosscoderConfig, batch_size: int) -> int:
    """Tokens of silence after which a feature counts as dead."""
    return config.dead_after_tokens or max(LEAST_PATIENCE, round(PATIENCE * batch_size * (config.steps or 0)))


class CrosscoderLearner:
    """The learner: reconstruction, sparsity, AuxK and pre-activation losses of normalised batches."""

    def __init__(self, config: CrosscoderConfig, crosscoder: Crosscoder, golden: Tensor, ranks: Ranks = ALONE) -> None:
        self.config, self.crosscoder, self.golden, self.ranks = config, crosscoder, golden, ranks
        rate = learning_rate_of(config, n_snapshots=crosscoder.n_snapshots, d_model=crosscoder.d_model)
        parameters = dict(crosscoder.named_parameters())
        assert tuple(parameters) == PARAMETERS[:-1]
        groups: list[dict[str, Any]] = [{"params": list(parameters.values()), "lr": rate}]
        self.learned: Tensor | None = None
        """JumpReLU's thresholds as they are learned: their logarithms, or themselves."""
        if crosscoder.activation.threshold == "learned":
            assert crosscoder.threshold is not None
            start = crosscoder.threshold.detach()
            self.learned = torch.nn.Parameter(start.log() if config.threshold_parameter == "log" else start.clone())
            groups.append({"params": [self.learned], "lr": rate * config.threshold_learning_rate})
        rows, first = [crosscoder.encoder_rows, crosscoder.decoder_rows], ranks.own(config.n_features).start
        self.optimizer = Adam(groups, rows=rows, moments=getattr(torch, config.moments), ranks=ranks, first=first)
        self.silent_tokens = torch.zeros(crosscoder.n_features, dtype=torch.int64, device=golden.device)
        self.threshold = torch.zeros((), device=golden.device)
        self.kernels = "torch"
        """By which products are made: like the number of threads, a resumed training keeps them."""

    def before_step(self, step: int) -> None:
        """Set the thresholds that the step's gradient goes through."""
        if self.learned is not None and self.config.threshold_parameter == "log":
            self.crosscoder.threshold = self.learned.exp()
        elif self.learned is not None:
            with torch.no_grad():
                self.learned.clamp_min_(0)
            self.crosscoder.threshold = self.learned * 1

    def loss(self, batch: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        config, crosscoder = self.config, self.crosscoder
        own = self.ranks.tokens(batch).to(crosscoder.b_dec.device, crosscoder.b_dec.dtype)
        x = own * crosscoder.norm_scale[:, None]
        dead = (self.silent_tokens >= patience_of(config, len(batch))).nonzero().flatten()
        all_dead = int(self.ranks.summed(torch.tensor(len(dead), device=x.device)))
        if all_dead and self._reaches(step):
            self._bring_within_reach(dead, x)
        k = self._k(step)
        found = self._search(x, k)
        outputs = self._encode(x) if found is None else found.outputs
        if not math.isfinite(outputs.detach().sum().item()):
            raise TrainingError(f"encoder outputs are not finite at step {step}: lower the learning rate")
        losses = crosscoder_losses(
            crosscoder, x, sparsity=config.sparsity_loss, pre=outputs if found is None else None,
            pre_is_exact=config.encode_dtype == "float32", found=found, k=k, ranks=self.ranks,
        )  # fmt: skip
        total = losses.reconstruction + config.sparsity_weight * self._ramp(step) * losses.sparsity
        if (config.aux_k != 0 or config.preactivation_weight) and all_dead:
            of_dead = crosscoder.pre_activations_of(dead, x)
            total = total + config.aux_weight * self._aux_loss(-losses.error.detach(), of_dead, dead, all_dead)
            total = total + config.preactivation_weight * self._preactivation_loss(of_dead, dead)
        self._remember(losses, len(x))
        figures = {
            "ev": float(losses.explained_variance.mean()),
            "l0": float(losses.l0.mean()),
            "dead": all_dead / config.n_features,
        }
        return total, figures

    def _search(self, x: Tensor, k: int | None) -> Found | None:
        """Active entries by way of rounded outputs, where that is asked for and can be told."""
        crosscoder, search = self.crosscoder, self.crosscoder.activation.search
        asked = self.kernels == "searching" and self.config.encode_dtype == "float32" and self.ranks.alone
        if search is None or k is None or not asked or crosscoder.encoder_rows.numel() < places.WORTH_IT:
            return None
        if k > DENSE_ABOVE * crosscoder.n_features:
            return None
        with torch.no_grad():
            return search(self._rounded(x), weight=crosscoder.score_weight(), k=k)

    def _rounded(self, x: Tensor) -> Rounded:
        crosscoder = self.crosscoder
        inputs, centre = crosscoder.encoder_input(x), crosscoder.encoder_input(crosscoder.b_dec[None])[0]
        return rounded_outputs(inputs, crosscoder.encoder_rows, crosscoder.b_enc, centre=centre)

    def _encode(self, x: Tensor) -> Tensor:
        """All encoder outputs, in the precision asked for."""
        if self.config.encode_dtype == "float32":
            return self.crosscoder.pre_activations(x)
        with torch.no_grad():
            rounded = self._rounded(x)
            return rounded.values + rounded.bias

    def _ramp(self, step: int) -> float:
        """How far the sparsity warm-up has come, 0 to 1."""
        length = self.config.sparsity_warmup * (self.config.steps or 0)
        return min(1.0, step / length) if length else 1.0

    def _k(self, step: int) -> int | None:
        """k in training: it falls from `k_start` over the sparsity warm-up."""
        k = self.config.used_k
        if k is None:
            return None
        start = self.config.k_start or k
        return round(start + (k - start) * self._ramp(step))

    def _reaches(self, step: int) -> bool:
        """Whether dead features are brought within AuxK's reach at a step: every tenth, until the rate falls."""
        config = self.config
        due = step % REACH_EVERY == 0 and (config.steps is None or step <= (1 - config.decay) * config.steps)
        return due and config.aux_k != 0 and config.aux_reach > 0

    @torch.no_grad()
    def _bring_within_reach(self, dead: Tensor, x: Tensor) -> None:
        """Raise the biases of dead features until their outputs are positive on some tokens: where they are on none,
        AuxK has no gradient, and they stay dead for good."""
        outputs, tokens = self.crosscoder.pre_activations_of(dead, x), max(1, round(self.config.aux_reach * len(x)))
        least = outputs.topk(tokens, dim=0).values[-1]
        self.crosscoder.b_enc[dead] -= self.ranks.averaged(least).clamp_max(0)

    def _aux_loss(self, residual: Tensor, of_dead: Tensor, dead: Tensor, all_dead: int) -> Tensor:
        """AuxK: the leading dead features reconstruct what the living ones leave.

        Args:
            residual: [batch, snapshot, d_model], a constant of the loss.
            of_dead: encoder outputs of the dead features [batch, dead].
            dead: their indices.
            all_dead: how many there are, other ranks' among them.
        Source: Gao et al. 2024, arXiv 2406.04093.
        """
        if (aux_k := self.config.aux_k) == 0:
            return of_dead.new_zeros(())
        candidates, k = torch.relu(of_dead), min(aux_k or self.config.used_k or AUX_K, all_dead)
        values, columns = candidates.topk(min(k, len(dead)), dim=1, sorted=False)
        if self.ranks.size > 1:
            table = values.new_zeros(len(values), k)
            table[:, : values.shape[1]] = values.detach()
            every = self.ranks.stacked(table).transpose(0, 1).flatten(1)
            values = values * (values >= every.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True))
        sparse = torch.zeros_like(candidates).scatter(1, columns, values)
        x_hat = self.ranks.total(sparse @ rows_at(self.crosscoder.decoder_rows, dead))
        return (residual.flatten(1) - x_hat).square().sum(1).mean()

    def _preactivation_loss(self, of_dead: Tensor, dead: Tensor) -> Tensor:
        """Σ over dead features of relu(t - z · strength), mean over tokens.

        The strength is the sum over snapshots under the shared gate, else the greatest.
        """
        threshold = self.crosscoder.threshold
        if self.config.preactivation_weight == 0 or threshold is None:
            return of_dead.new_zeros(())
        crosscoder = self.crosscoder
        strength = crosscoder.strength()
        weight = (strength.sum(0) if crosscoder.gate == "shared" else strength.amax(0))[dead]
        return self.ranks.total(torch.relu(threshold[dead] - of_dead * weight).sum(1).mean())

    @torch.no_grad()
    def _remember(self, losses: Losses, tokens: int) -> None:
        """Count how long each feature has been silent; follow the least score that was kept."""
        self.silent_tokens += tokens * self.ranks.replicas
        self.silent_tokens[self.ranks.any(losses.fired)] = 0
        if self.crosscoder.activation.threshold == "estimated":
            old = self.threshold if self.threshold > 0 else losses.least_score
            self.threshold = old + (losses.least_score - old) / self._threshold_steps()

    def _threshold_steps(self) -> int:
        """Steps over which the threshold is averaged: the last twentieth of the training, 10 to 1,000."""
        return min(1000, max(10, round(0.05 * (self.config.steps or 2000))))

    def finished(self) -> Crosscoder:
        self.optimizer.release()
        crosscoder = self.crosscoder
        if crosscoder.activation.threshold == "estimated":
            crosscoder.threshold = self.threshold.expand(crosscoder.n_features).clone()
        elif crosscoder.threshold is not None:
            crosscoder.threshold = crosscoder.threshold.detach()
        crosscoder = crosscoder.cpu()
        if self.ranks.size > 1:
            whole = {
                name: self.ranks.whole(value, FEATURE_AXES[name], self.config.n_features)
                if name in FEATURE_AXES
                else value
                for name, value in crosscoder.tensors().items()
            }
            if all(value is not None for value in whole.values()):
                crosscoder = Crosscoder(**whole, **settings_of(self.config))
        return crosscoder.requires_grad_(False).eval()

    def state(self) -> dict[str, Any]:
        return {
            "crosscoder": self.crosscoder.views() if self.ranks.size == 1 else self.crosscoder.tensors(),
            "silent_tokens": self.silent_tokens,
            "threshold": self.threshold,
            "learned": None if self.learned is None else self.learned.detach(),
            "golden": self.golden,
            "kernels": self.kernels,
        }

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            own = self.crosscoder.views()
            for name in own.keys() - {"threshold"}:
                own[name].copy_(state["crosscoder"][name])
            self.silent_tokens.copy_(state["silent_tokens"])
            self.threshold.copy_(state["threshold"])
            if self.learned is not None:
                self.learned.copy_(state["learned"])
