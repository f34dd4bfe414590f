"""What a run's activations depend on, as fingerprints; nothing here loads torch."""

from ontogeny.config.settings import fingerprint
from ontogeny.corpus.pack import Corpus
from ontogeny.run import Run
from ontogeny.suites.suite import Suite, suite_of


def pretrain_key(run: Run) -> str:
    """Fingerprint of a pre-training of our own."""
    corpora = (Corpus(run.corpus_folder / split).fingerprint for split in ("train", "held_out"))
    return fingerprint(run.study.suite.pretrain, tuple(corpora))


def suite_key(run: Run, suite: Suite) -> str:
    """Fingerprint of some snapshots of a run: of what made them where that was us, else of their files."""
    study = run.study
    if study.suite.pretrain is not None:
        return fingerprint(pretrain_key(run), suite.steps, study.suite.dtype)
    files = [state for snapshot in suite.snapshots for state in snapshot.source.state(snapshot)]
    return fingerprint(files, study.suite.dtype)


def snapshot_keys(run: Run) -> list[str]:
    """Fingerprint of each snapshot's activations on the training corpus; those of others do not change it."""
    study, corpus = run.study, Corpus(run.corpus_folder / "train").fingerprint
    own = pretrain_key(run) if study.suite.pretrain is not None else None
    return [
        fingerprint(own or snapshot.source.state(snapshot), snapshot.step, study.suite.dtype, study.hookpoint, corpus)
        for snapshot in suite_of(run).snapshots
    ]


def activations_key(run: Run) -> str:
    """Fingerprint of the snapshots, the hookpoint and the training corpus."""
    return fingerprint(
        suite_key(run, suite_of(run)), run.study.hookpoint, Corpus(run.corpus_folder / "train").fingerprint
    )
