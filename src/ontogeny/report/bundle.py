"""Vega's JavaScript, from the installed package; putting it together takes seconds, so it is kept in the cache."""

from importlib.metadata import version

from ontogeny.files import default_cache, write_text


def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    kept = default_cache() / "vega" / f"{version('vl-convert-python')}.js"
    if not kept.is_file():
        import vl_convert

        write_text(kept, vl_convert.javascript_bundle())  # pyright: ignore[reportCallIssue]
    return kept.read_text(encoding="utf-8")
