"""Runs the commands: ``python -m airflow_provider_youcan``."""

from __future__ import annotations

import sys

from airflow_provider_youcan.cli.commands import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
