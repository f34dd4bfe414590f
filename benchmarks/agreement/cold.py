"""SAEs trained from the start: explained variance over budgets of tokens, and beside a series at every snapshot."""

from itertools import pairwise
from typing import Any

from ontogeny.activations.harvest import harvester_of
from ontogeny.analyses.gate import gate
from ontogeny.analyses.single_saes import compared_places
from ontogeny.corpus.pack import Corpus
from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.variants import batch_topk
from ontogeny.features.quality import reconstruct_held_out
from ontogeny.run import Run
from ontogeny.suites.suite import suite_of

BUDGETS = [262_144, 524_288, 1_048_576, 2_097_152, 4_194_304, 8_388_608]
GAIN = 0.005
"""Rise of explained variance with twice the tokens under which a budget is the plateau."""


def curves(run: Run) -> list[dict[str, Any]]:
    """A row for each snapshot and budget: explained variance and L0 on held-out tokens, share of silent features."""
    return [
        {"step": run.steps[place], "tokens": tokens, **_measured(run, place, _cold(run, place, tokens))}
        for place in compared_places(run)
        for tokens in BUDGETS
    ]


def alone(run: Run, place: int) -> Crosscoder:
    """An SAE of one snapshot, trained from the start on as many tokens as the first of a series."""
    return _new(run, f"alone-step{run.steps[place]}", place)


def beside_alone(run: Run) -> list[dict[str, Any]]:
    """For every snapshot what the SAE of a series explains and which share of it is silent on held-out tokens, and the
    same of one trained from the start."""
    took = gate(run).select("step", "tokens").to_dicts()
    own = run.table("quality").sort("snapshot").select("explained_variance", "l0", silent="silent_share").to_dicts()
    return [
        one | {"series": own[place], "alone": _measured(run, place, alone(run, place))}
        for place, one in enumerate(took)
    ]


def _cold(run: Run, place: int, tokens: int) -> Crosscoder:
    steps = tokens // run.study.train.batch_size
    return _new(run, f"cold-step{run.steps[place]}-{tokens}", place, steps=steps)


def _new(run: Run, name: str, place: int, **changes: Any) -> Crosscoder:
    return batch_topk(run, name, k=run.study.dictionary.used_k or 32, snapshot=place, **changes)


def _measured(run: Run, place: int, sae: Crosscoder) -> dict[str, float]:
    """An SAE on held-out tokens of its snapshot."""
    harvester = harvester_of(run, suite=suite_of(run).only([place]))
    held_out = Corpus(run.corpus_folder / "held_out")
    found = reconstruct_held_out(sae.to(harvester.device), harvester, held_out, run.study.measure)
    return {
        "explained_variance": float(found.explained_variance[0]),
        "l0": float(found.l0[0]),
        "silent": found.silent_share,
    }


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
