"""`python -m pipelines.cli`, which is `activity`."""

from pipelines.cli.app import main

main()
