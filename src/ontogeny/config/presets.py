"""Studies that come with the package."""

from importlib.resources import files
from pathlib import Path

from ontogeny.config.study import StudyConfig, load_study
from ontogeny.errors import ConfigError, did_you_mean


def preset(name: str) -> StudyConfig:
    """A study that comes with the package, such as `demo`.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in (names := presets()):
        raise ConfigError(f"no preset '{name}'{did_you_mean(name, names)}: there are {', '.join(names)}")
    return load_study(Path(str(files("ontogeny") / "presets" / f"{name}.yaml")))


def presets() -> list[str]:
    """Names of the studies that come with the package."""
    folder = files("ontogeny") / "presets"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))
