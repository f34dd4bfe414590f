"""`python -m ontogeny`."""

from ontogeny.cli import main

main()
