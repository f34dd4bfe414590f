"""Settings of the text of a study and how it is packed."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ontogeny.config.settings import Positive, Settings


class TokenizerConfig(Settings):
    """A byte-level BPE tokenizer to train on the corpus."""

    vocab_size: Annotated[int, Field(ge=260)] = 4096


class CorpusConfig(Settings):
    """The text of a study and how it is packed."""

    files: str | list[str]
    """Globs of .txt, .md or .jsonl files, plain, .gz, .xz or .zst, or .parquet; `pydocs`, the documentation in this
    environment; or a dataset on the hub, `datasets:OWNER/NAME[:CONFIG][@REVISION][#SPLIT]` (needs the extra)."""
    held_out: str | list[str] | None = None
    """Files of the same kinds; without them documents are split off by the hash of their id."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    sequence_length: Annotated[int, Field(ge=2)] = 256
    tokenizer: Path | TokenizerConfig | None = None
    """None: the suite's own. A path: a saved transformers tokenizer. Otherwise one is trained on the corpus."""
    share_context: Literal["never", "source"] = "never"
    """`source`: short documents of one source follow each other in one context, separated by the end token."""
    min_tokens: Positive = 16
    """Contexts with fewer tokens than this are dropped and counted."""
    max_bytes_per_source: Positive | None = None
    """Cap on the text taken from one source (for `pydocs`: a package; a dataset on the hub has to have a cap)."""

    @property
    def patterns(self) -> list[str]:
        return [self.files] if isinstance(self.files, str) else list(self.files)

    @property
    def held_out_patterns(self) -> list[str]:
        if self.held_out is None:
            return []
        return [self.held_out] if isinstance(self.held_out, str) else list(self.held_out)
