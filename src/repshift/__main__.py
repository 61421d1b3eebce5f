"""``python -m repshift``."""

from repshift.cli import main

main()
