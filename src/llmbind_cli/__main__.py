"""Runs the command line as ``python -m llmbind_cli``."""

import sys

from llmbind_cli.app import main

sys.exit(main())
