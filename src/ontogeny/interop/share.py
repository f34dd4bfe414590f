"""Runs on a hub: pushed without their models and corpus, pulled and opened."""

import re
import shutil
import tempfile
from pathlib import Path

from ontogeny import tables
from ontogeny.errors import RunError, SuiteError
from ontogeny.files import atomic_path
from ontogeny.interop.about import require_new
from ontogeny.interop.card import model_card
from ontogeny.interop.export import about_run
from ontogeny.run import Run, open_run

PUSHED = (
    "study.yaml", "manifest.json", "report.html", "dictionary/*", "corpus/tokenizer/*", "corpus/train/manifest.json",
    *tables.FILES.values(),
)  # fmt: skip
"""What a reader of a run needs, as globs: no models, no activations, no replies of a language model."""
NAMED = ("study.yaml", "manifest.json", "report.html")
"""Files that may name folders of this machine."""


def push(run: Run, repo: str, *, private: bool = False) -> str:
    """Upload a run to a repository on the hub, which is made where it is not there.

    Settings, tables, dictionary, report and tokenizer go, and a model card; among the tables are the examples,
    which are excerpts of the text. The rest of the text, models and the name of the home folder stay here.

    Returns:
        The address of the commit.
    Raises:
        SuiteError: the hub refuses it, or fails too often; or what should be private is public.
        RunError: the run is of earlier settings.
    """
    from huggingface_hub import HfApi

    from ontogeny.suites.hub import patiently

    api, what = HfApi(), f"repository {repo}"
    run.require_current()
    with tempfile.TemporaryDirectory(dir=run.folder.parent) as held:
        staged = Path(held) / "run"
        _stage(run, staged)
        patiently(lambda: api.create_repo(repo, private=private or None, exist_ok=True), what)
        if private and not patiently(lambda: api.repo_info(repo).private, what):
            raise SuiteError(f"{what} is there and public: make it private on the hub, or give another name")
        commit = patiently(
            lambda: api.upload_folder(
                repo_id=repo, folder_path=staged, delete_patterns=list(PUSHED),
                commit_message=f"Add {run.study.name}",
            ),
            what,
        )  # fmt: skip
    return str(commit.commit_url)


def pull(repo: str, out: str | Path, *, revision: str | None = None) -> Run:
    """Fetch a run that was pushed into a new folder, whole or not at all.

    Raises:
        SuiteError: the hub has no such repository, or fails too often.
        RunError: it holds no run, or the folder is not empty.
    """
    from huggingface_hub import snapshot_download

    from ontogeny.suites.hub import patiently

    out = Path(out)
    require_new(out)
    with atomic_path(out) as temporary:
        patiently(lambda: snapshot_download(repo, revision=revision, local_dir=temporary), f"repository {repo}")
        if not (temporary / "study.yaml").is_file() or not (temporary / "manifest.json").is_file():
            raise RunError(f"{repo} holds no run: it has no study.yaml or no manifest.json")
        shutil.rmtree(temporary / ".cache", ignore_errors=True)
    return open_run(out)


def without_home(text: str) -> str:
    """A text in which paths below the home folder begin with ~."""
    home = Path.home()
    if len(home.parts) < 2:
        return text
    return re.sub(re.escape(str(home)) + r"(?![\w.-])", "~", text)


def _stage(run: Run, folder: Path) -> None:
    """A copy of what is pushed; files that name no folder of this machine are links."""
    folder.mkdir()
    for pattern in PUSHED:
        for path in run.folder.glob(pattern):
            copy = folder / path.relative_to(run.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.name in NAMED:
                copy.write_text(without_home(path.read_text(encoding="utf-8")), encoding="utf-8")
            else:
                copy.symlink_to(path.resolve())
    about = about_run(run, list(range(len(run.steps))), "")
    (folder / "README.md").write_text(model_card(run, about), encoding="utf-8")
