"""Runs the command line as ``python -m zegment``, as launchers of several processes do."""

from zegment.cli import main

main()
