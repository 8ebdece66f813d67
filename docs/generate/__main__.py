"""Writes the pages of docs/ that are made from the source: `python docs/generate`. tests/project compares them."""

from __future__ import annotations

from pathlib import Path

import api

PAGES = {"API.md": api.page}

for name, page in PAGES.items():
    (Path(__file__).parents[1] / name).write_text(page(), encoding="utf-8")
