"""How many tokens an SAE trained from the start takes: explained variance over budgets, at single snapshots."""

from itertools import pairwise
from typing import Any

from ontogeny.activations.harvest import harvester_of
from ontogeny.analyses.gate import gate
from ontogeny.analyses.single_saes import compared_places
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries.variants import batch_topk
from ontogeny.features.quality import reconstruct_held_out
from ontogeny.run import Run
from ontogeny.suites.suite import suite_of

BUDGETS = [262_144, 524_288, 1_048_576, 2_097_152, 4_194_304, 8_388_608]
GAIN = 0.005
"""Rise of explained variance with twice the tokens under which a budget is the plateau."""


def curves(run: Run) -> list[dict[str, Any]]:
    """A row for each snapshot and budget: explained variance and L0 on held-out tokens, share of silent features."""
    suite, held_out, rows = suite_of(run), Corpus(run.corpus_folder / "held_out"), []
    for place in compared_places(run):
        harvester = harvester_of(run, suite=suite.only([place]))
        for tokens in BUDGETS:
            sae = batch_topk(
                run,
                f"cold-step{run.steps[place]}-{tokens}",
                k=run.study.dictionary.used_k or 32,
                snapshot=place,
                steps=tokens // run.study.train.batch_size,
            )
            measured = reconstruct_held_out(sae.to(harvester.device), harvester, held_out, run.study.measure)
            rows.append(
                {
                    "step": run.steps[place],
                    "tokens": tokens,
                    "explained_variance": float(measured.explained_variance[0]),
                    "l0": float(measured.l0[0]),
                    "silent": measured.silent_share,
                }
            )
    return rows


def plateaus(rows: list[dict[str, Any]]) -> dict[int, int | None]:
    """For each step the tokens from which on twice as many raise explained variance by less than GAIN; None: no
    fewer than the most that were tried."""
    explained = {(row["step"], row["tokens"]): row["explained_variance"] for row in rows}
    budgets, found = sorted({row["tokens"] for row in rows}), {}
    for step in sorted({row["step"] for row in rows}):
        rises = {few: explained[step, many] - explained[step, few] for few, many in pairwise(budgets)}
        level = [few for few in rises if all(rise < GAIN for later, rise in rises.items() if later >= few)]
        found[step] = min(level, default=None)
    return found


def taken(run: Run) -> dict[str, Any]:
    """Tokens that the SAEs of a series took in all, and what it explains at the same snapshots."""
    passed, steps = gate(run), [run.steps[place] for place in compared_places(run)]
    at = passed.filter(passed["step"].is_in(steps)).select("step", "explained_variance", "dead_share")
    return {"tokens": int(passed["tokens"].sum()), "at": at.to_dicts()}
