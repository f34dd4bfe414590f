"""`ontogeny export`, `import`, `push`, `pull`: other tools' files, and runs on a hub."""

from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
FolderOption = Annotated[Path, typer.Option("--out", help="A new folder.")]


def export(
    run: RunArgument,
    out: FolderOption,
    to: Annotated[
        str,
        typer.Option(
            "--to", help="saelens, crosscoder_learning, crosscoding_through_time, openmoss; or neuronpedia (features)."
        ),
    ],
    step: Annotated[int | None, typer.Option("--step", help="Of the snapshot, for saelens; default the last.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="For neuronpedia: the model's id there.")] = None,
    source: Annotated[str | None, typer.Option("--source", help="For neuronpedia: the source's id there.")] = None,
) -> None:
    """Write a run's dictionary in another tool's files, or its features in Neuronpedia's.

    Example: ontogeny export runs/demo --to saelens --step 300 --out demo-sae
    """
    from ontogeny.errors import ConfigError, did_you_mean
    from ontogeny.interop.formats import FORMATS
    from ontogeny.run import open_run

    opened, known = open_run(run), (*FORMATS, "neuronpedia")
    if to not in known:
        raise ConfigError(f"no format '{to}'{did_you_mean(to, known)}: there are {', '.join(known)}")
    if to != "neuronpedia":
        from ontogeny.interop.export import export_dictionary

        print(export_dictionary(opened, to, out, step=step))
        return
    from ontogeny.interop.neuronpedia import export_neuronpedia

    if step is not None:
        raise ConfigError("neuronpedia is told of the last snapshot: leave out --step")
    if model is None or source is None:
        raise ConfigError("neuronpedia names models and sources: give --model and --source, such as pythia-70m, 3-mine")
    count = export_neuronpedia(opened, out, model=model, source=source)
    print(f"wrote {count:,} features for Neuronpedia to {out}")


def import_(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What the other tool wrote.")],
    out: FolderOption,
    of: Annotated[
        str, typer.Option("--from", help="saelens, crosscoder_learning, crosscoding_through_time, openmoss.")
    ],
) -> None:
    """Read another tool's dictionary and save it as one that `ontogeny.load_dictionary` opens.

    Example: ontogeny import sae/ --from saelens --out dictionary
    """
    from ontogeny.interop.export import import_dictionary

    found = import_dictionary(folder, of, out)
    print(f"wrote {out}: {found.n_features:,} features over {found.n_snapshots} snapshots of width {found.d_model}")


def push(
    run: RunArgument,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
) -> None:
    """Upload a run to the hub: tables with their excerpts of text, dictionary, report, tokenizer and a card.

    Example: ontogeny push runs/demo me/demo-features
    """
    from ontogeny.interop.share import push as push_run
    from ontogeny.run import open_run

    print(f"pushed {run} to {push_run(open_run(run), repo, private=private)}")


def pull(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub.")],
    out: FolderOption,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit.")] = None,
) -> None:
    """Fetch a run that was pushed, to read it, serve it or export it.

    Example: ontogeny pull me/demo-features --out runs/pulled
    """
    from ontogeny.interop.share import pull as pull_run

    print(f"wrote {pull_run(repo, out, revision=revision).folder}; next: ontogeny serve {out}")
