"""Kinds of feature by rule: of the previous token, of induction, sensitive to context, of a token. When each is born.

Source of the kinds: arXiv 2509.17196; the rules, their thresholds and nulls are defined in `ontogeny/features/`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ontogeny.corpus.pack import Corpus
from ontogeny.intervals import wilson_count
from ontogeny.progress import progress_bar
from ontogeny.run import Run
from ontogeny.tables import from_rows

if TYPE_CHECKING:
    from torch import Tensor

    from ontogeny.features.induction import Blocks, Induction

KINDS = ("induction", "previous_token", "context_sensitive", "token", "other")
"""In the order in which they are asked; the first that fits is a feature's kind."""
BLOCKS, LENGTH, WORDS = 64, 32, 2000
OF_TOKEN = 0.5
"""Share of a code's variance that the current token explains in a token feature."""


def kinds(run: Run) -> pl.DataFrame:
    """The table `kinds`: a row per feature that is not dead."""
    from ontogeny.features.codes import as_csr, stored_codes
    from ontogeny.features.kinds import IN_CONTEXT, PREVIOUS, beyond_shuffled, context_score, explained
    from ontogeny.features.kinds import previous_token_score as previous_score
    from ontogeny.features.levels import significant

    stored, corpus = stored_codes(run), Corpus(run.corpus_folder / "held_out")
    codes = as_csr(stored.codes).T.tocsr()
    lengths = corpus.lengths[stored.sequences].astype(np.int64) - 1
    position = np.concatenate([np.arange(1, 1 + n) for n in lengths])
    previous = np.concatenate(
        [corpus.tokens[one, :n] for one, n in zip(stored.sequences, lengths, strict=True)]
    ).astype(np.int64)
    found = explained(codes, stored.token, previous, position)
    before, context = previous_score(found), context_score(found)
    p_before = beyond_shuffled(codes, stored.token, previous, seed=run.study.analysis.seed)
    repeated = _induction(run)
    living = run.features.filter(~pl.col("dead")).sort("feature")["feature"].to_numpy()
    induces, follows = np.zeros(len(before), dtype=bool), np.zeros(len(before), dtype=bool)
    induces[living] = significant(repeated.p[living]) & repeated.passes[living]
    follows[living] = significant(p_before[living]) & (before[living] >= PREVIOUS)
    birth = dict(run.features.select("feature", "birth_step").iter_rows())
    rows = []
    for feature in living.tolist():
        fits = {
            "induction": induces[feature],
            "previous_token": follows[feature],
            "context_sensitive": context[feature] >= IN_CONTEXT,
            "token": found.current[feature] >= OF_TOKEN,
            "other": True,
        }
        rows.append(
            {
                "feature": feature,
                "birth_step": birth[feature],
                "kind": next(kind for kind in KINDS if fits[kind]),
                "explained_current": found.current[feature],
                "explained_previous": found.previous[feature],
                "explained_pair": found.pair[feature],
                "explained_position": found.position[feature],
                "previous_score": before[feature],
                "previous_p": p_before[feature],
                "context_score": context[feature],
                "induction_ratio": repeated.ratio[feature],
                "induction_control_ratio": repeated.control_ratio[feature],
                "induction_raised": repeated.raised[feature],
                "induction_p": repeated.p[feature],
            }
        )
    return from_rows("kinds", rows)


def kind_births(run: Run) -> pl.DataFrame:
    """The table `kind_births`: features of each kind by the step of their birth."""
    table = run.table("kinds")
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        of_kind = table.filter(kind=kind)
        for step in run.steps:
            count = int((of_kind["birth_step"] == step).sum())
            low, high = wilson_count(count, len(table))
            row = {"kind": kind, "birth_step": step, "features": count, "ci_low": low, "ci_high": high}
            rows.append(row | {"of_kind": len(of_kind)})
    return from_rows("kind_births", rows)


def induction_scores(run: Run) -> pl.DataFrame:
    """The table `induction_scores`: how much cheaper the second copy of random tokens is, at every snapshot."""
    import torch

    from ontogeny.models.load import load_snapshot
    from ontogeny.models.pretrain import next_token_losses
    from ontogeny.suites.suite import suite_of

    blocks, suite, rows = _blocks(run), suite_of(run), []
    n = blocks.length
    with torch.no_grad(), progress_bar("induction", len(suite.snapshots), unit="snapshots") as bar:
        for place, snapshot in enumerate(suite.snapshots):
            model = load_snapshot(snapshot, dtype=run.study.suite.dtype)
            losses = next_token_losses(model(input_ids=blocks.repeated).logits, blocks.repeated)
            first, second = losses[:, 1:n].mean(1).double(), losses[:, n + 1 :].mean(1).double()
            gain = (first - second).numpy()
            error = 1.96 * float(gain.std(ddof=1)) / len(gain) ** 0.5
            middle = float(gain.mean())
            rows.append(
                {
                    "snapshot": place,
                    "step": snapshot.step,
                    "first": float(first.mean()),
                    "second": float(second.mean()),
                    "gain": middle,
                    "gain_ci_low": middle - error,
                    "gain_ci_high": middle + error,
                }
            )
            bar.advance(1)
    return from_rows("induction_scores", rows)


def _blocks(run: Run) -> "Blocks":
    from ontogeny.corpus.tokenizer import start_token
    from ontogeny.features.induction import random_blocks

    corpus = Corpus(run.corpus_folder / "train")
    counts = np.bincount(corpus.tokens[:4096].ravel(), minlength=corpus.manifest["vocab_size"])
    start = start_token(corpus.tokenizer)
    counts[start] = 0
    words = np.argsort(-counts, kind="stable")[:WORDS]
    length = min(LENGTH, (corpus.sequence_length - 1) // 2, len(words) // 2)
    return random_blocks(words, start=start, blocks=BLOCKS, length=length, seed=run.study.analysis.seed)


def _induction(run: Run) -> "Induction":
    """What a repetition does to codes; of snapshots with codes of their own the last one's."""
    import torch

    from ontogeny.activations.harvest import harvester_of
    from ontogeny.features.induction import induction_of_features
    from ontogeny.models.hookpoints import logit_directions
    from ontogeny.models.load import load_snapshot
    from ontogeny.suites.suite import suite_of

    blocks, harvester, dictionary = _blocks(run), harvester_of(run), run.dictionary()
    last = len(run.steps) - 1
    part = dictionary.parts()[-1]

    def coded(tokens: "Tensor") -> "Tensor":
        found = []
        for chunk in tokens.split(16):
            (x,) = harvester.read_all([chunk])
            x = x.cpu() * dictionary.norm_scale[:, None]
            here = x[:, :, part.snapshots].flatten(0, 1)
            found.append(part.crosscoder.widest_code(part.crosscoder.pre_activations(here)).view(*chunk.shape, -1))
        return torch.cat(found)

    with torch.no_grad():
        model = load_snapshot(suite_of(run).snapshots[last], dtype=run.study.suite.dtype)
        logits = logit_directions(model, dictionary.W_dec[last].to(model.dtype)).float()
        return induction_of_features(blocks, coded(blocks.repeated), coded(blocks.control), logits)
