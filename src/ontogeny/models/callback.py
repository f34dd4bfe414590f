"""Snapshots of a model that transformers' Trainer pre-trains."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ontogeny.models.snapshots import Schedule, powers_of_two, save_snapshot

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SnapshotCallback(TrainerCallback):
    """For transformers' `Trainer`: saves snapshots on a schedule, step 0 and the last step among them.

    Args:
        folder: of the suite.
        schedule: steps to save, or a function that tells.
        tokenizer: saved with each snapshot.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        schedule: Schedule = powers_of_two,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
    ) -> None:
        self.folder, self.schedule, self.tokenizer = folder, schedule, tokenizer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save step 0, or the step that a training goes on from where it was saved."""
        self._save(state, kwargs, self.schedule if state.global_step else None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the step if it is due."""
        self._save(state, kwargs, self.schedule)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the last step."""
        self._save(state, kwargs, None)

    def _save(self, state: Any, given: dict[str, Any], schedule: Schedule | None) -> None:
        if state.is_world_process_zero:
            save_snapshot(
                given["model"], self.folder, step=state.global_step, tokenizer=self.tokenizer, schedule=schedule
            )
