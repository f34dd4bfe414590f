"""A run's dictionary in another tool's files, and a dictionary of theirs as one of ours."""

from pathlib import Path

import polars as pl

from ontogeny.dictionaries.crosscoder import Crosscoder
from ontogeny.dictionaries.sae_series import SAESeries
from ontogeny.errors import DictionaryError, RunError
from ontogeny.files import atomic_path
from ontogeny.interop.about import About, require_new
from ontogeny.interop.card import model_card
from ontogeny.interop.formats import format_of
from ontogeny.run import Run


def export_dictionary(run: Run, name: str, folder: str | Path, *, step: int | None = None) -> str:
    """Write a run's dictionary in another tool's layout, with a model card, into a new folder.

    An SAE of one snapshot is taken from a series as it is. A crosscoder's encoder sums over snapshots, so that a slice
    of it is no SAE: one is trained from the slice, its features keep their numbers, and what it explains is said.

    Args:
        name: a row of `ontogeny.interop.formats.FORMATS`.
        step: of the snapshot, for formats that hold one; None for the last.
    Returns:
        What was written, in one line.
    Raises:
        ConfigError: there is no such format.
        DictionaryError: the layout cannot hold this dictionary.
        RunError: there is no dictionary or snapshot, or the folder is not empty.
    """
    folder, layout = Path(folder), format_of(name)
    require_new(folder)
    run.require_current()
    if layout.one_snapshot:
        snapshot = _place(run, step)
        crosscoder, note = _sae_of(run, snapshot)
        about = about_run(run, [snapshot], note)
        said = f"the SAE of step {run.steps[snapshot]:,}"
    else:
        if step is not None:
            raise DictionaryError(f"{layout.title} holds all snapshots: leave out --step")
        crosscoder = run.dictionary()
        if not isinstance(crosscoder, Crosscoder):
            raise DictionaryError(f"{layout.title} holds crosscoders, this run has an SAE series: export it to saelens")
        about = about_run(run, list(range(len(run.steps))), "")
        said = f"the crosscoder over {len(run.steps)} snapshots"
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        layout.write(crosscoder, temporary, about)
        (temporary / "README.md").write_text(
            model_card(run, about, layout=layout.title, written=crosscoder), encoding="utf-8"
        )
    return f"wrote {said} for {layout.title} to {folder}" + (f"; {about.note}" if about.note else "")


def import_dictionary(folder: str | Path, name: str, out: str | Path) -> Crosscoder:
    """Read another tool's dictionary and save it as one of ours.

    Raises:
        ConfigError: there is no such format.
        DictionaryError: a file is missing or damaged, or does what ours cannot.
        RunError: `out` is not empty.
    """
    require_new(Path(out))
    crosscoder = format_of(name).read(Path(folder)).requires_grad_(False).eval()
    crosscoder.save(out)
    return crosscoder


def about_run(run: Run, places: list[int], note: str) -> About:
    """What files of some snapshots say of a run."""
    suite, snapshots = run.study.suite, run.manifest["snapshots"]
    if suite.repo is None:
        model = Path(run.manifest["suite"]).name
    else:
        model = suite.repo if isinstance(suite.repo, str) else snapshots[places[-1]]["repo"]
    patterns = run.study.corpus.patterns
    return About(
        model=model,
        revisions=tuple(snapshots[place]["revision"] for place in places),
        hookpoint=run.study.hookpoint,
        context=run.study.corpus.sequence_length,
        corpus=", ".join(one if one.startswith("datasets:") else Path(one).name for one in patterns),
        note=note,
    )


def _place(run: Run, step: int | None) -> int:
    if step is None:
        return len(run.steps) - 1
    if step not in run.steps:
        near = min(run.steps, key=lambda one: abs(one - step))
        raise RunError(f"the run has no snapshot of step {step:,}; the nearest is {near:,}")
    return run.steps.index(step)


def _sae_of(run: Run, snapshot: int) -> tuple[Crosscoder, str]:
    """An SAE of one snapshot, and what is to be said of it."""
    dictionary = run.dictionary()
    if isinstance(dictionary, SAESeries):
        return dictionary.sae(snapshot), ""
    assert isinstance(dictionary, Crosscoder)
    if dictionary.n_snapshots == 1:
        return dictionary, ""
    from ontogeny.activations.harvest import harvester_of
    from ontogeny.corpus.pack import Corpus
    from ontogeny.dictionaries.variants import refit_slice
    from ontogeny.features.quality import reconstruct_held_out
    from ontogeny.suites.suite import suite_of

    sae = refit_slice(run, snapshot)
    one, held_out = suite_of(run).only([snapshot]), Corpus(run.corpus_folder / "held_out")
    harvester = harvester_of(run, suite=one)
    measured = reconstruct_held_out(sae.to(harvester.device), harvester, held_out, run.study.measure)
    whole = run.table("quality").filter(pl.col("snapshot") == snapshot)["explained_variance"].item()
    found = float(measured.explained_variance[0])
    return sae.cpu(), (
        f"trained from the crosscoder's slice, whose encoder alone is no SAE: it explains {found:.4f} of the held-out "
        f"variance, the crosscoder {whole:.4f}"
    )
