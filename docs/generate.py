"""Write the pages of the documentation that are made from the code; with --check, only say whether they are current."""

import sys
from pathlib import Path

from ontogeny import tables

PAGES = {"tables.md": tables.markdown}


def main() -> int:
    stale = []
    for name, make in PAGES.items():
        path = Path(__file__).with_name(name)
        if not path.is_file() or path.read_text(encoding="utf-8") != make():
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(make(), encoding="utf-8")
    if "--check" in sys.argv and stale:
        print(f"out of date: {', '.join(stale)}; run `python docs/generate.py`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
