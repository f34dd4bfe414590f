"""The rest of a model: from activations at a hookpoint on to the logits, without running again what comes before."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ontogeny.models.hookpoints import blocks_of, spliced
from ontogeny.models.names import Hookpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Skippable(nn.Module):
    """A block that can be passed by: what goes in comes out."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.skipped, self.gives_tuple = block, False, False

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.skipped:
            return (hidden_states,) if self.gives_tuple else hidden_states
        output = self.block(hidden_states, *args, **kwargs)
        self.gives_tuple = isinstance(output, tuple)
        return output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # some models ask their blocks for settings
            return getattr(super().__getattr__("block"), name)


class Rest:
    """A model in two parts, before and after a hookpoint. It takes the model over: blocks are wrapped.

    Sequences are padded on the right, where causal attention lets padding change nothing before it.

    Raises:
        HookpointError: the model has no such block.
    """

    def __init__(self, model: "PreTrainedModel", hookpoint: Hookpoint) -> None:
        self.model, self.hookpoint = model, hookpoint
        with spliced(model, hookpoint, lambda x: x):
            pass  # raises where there is no such block
        blocks = blocks_of(model)
        before = hookpoint.layer + (hookpoint.kind == "resid_post")
        self.skippable = [_Skippable(block) for block in blocks[:before]]
        for place, block in enumerate(self.skippable):
            blocks[place] = block

    @torch.no_grad()
    def read(
        self, tokens: Int[Tensor, "batch position"], last: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch position d_model"], Tensor, Float[Tensor, "batch vocabulary"]]:
        """One forward pass.

        Args:
            tokens: ids, any at padding.
            last: position of each sequence whose logits are wanted.
        Returns:
            Activations at the hookpoint, what enters its block (for `logits`), and the logits.
        """
        seen: dict[str, Tensor] = {}

        def look(name: str, x: Tensor) -> Tensor:
            seen[name] = x
            return x

        entry = Hookpoint("resid_pre", self.hookpoint.layer)
        with (
            spliced(self.model, entry, lambda x: look("entry", x)),
            spliced(self.model, self.hookpoint, lambda x: look("x", x)),
        ):
            logits = self._logits(tokens, last)
        return seen["x"], seen["entry"], logits

    def logits(
        self,
        tokens: Int[Tensor, "batch position"],
        last: Int[Tensor, " batch"],
        x: Float[Tensor, "batch position d_model"],
        entry: Float[Tensor, "batch position d_model"],
    ) -> Float[Tensor, "batch vocabulary"]:
        """The logits that the model goes on to from activations `x` at the hookpoint; gradients flow to them.

        Args:
            entry: what enters the hookpoint's block, from `read`; needed where the hookpoint lies inside the block.
        """
        inside = self.hookpoint.kind in ("attn_out", "mlp_out")
        try:
            for block in self.skippable:
                block.skipped = True
            with ExitStack() as stack:
                if inside:
                    there = Hookpoint("resid_pre", self.hookpoint.layer)
                    stack.enter_context(spliced(self.model, there, lambda _: entry))
                stack.enter_context(spliced(self.model, self.hookpoint, lambda old: x.to(old.dtype)))
                return self._logits(tokens, last)
        finally:
            for block in self.skippable:
                block.skipped = False

    def _logits(self, tokens: Int[Tensor, "batch position"], last: Int[Tensor, " batch"]) -> Tensor:
        places, which = last.unique(return_inverse=True)
        logits = self.model(input_ids=tokens, use_cache=False, logits_to_keep=places).logits
        return logits[torch.arange(len(tokens), device=logits.device), which].float()
