"""The `burnish` command. Each file holds a few commands; `main` is the entry point."""

from __future__ import annotations

from burnish.cli.app import main

__all__ = ["main"]
