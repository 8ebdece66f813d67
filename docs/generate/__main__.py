"""Writes the pages of docs/ that are made from the source: `python docs/generate`. Tests compare them."""

from __future__ import annotations

from pathlib import Path

import api
import commands

for name, text in {"API.md": api.page(), **commands.pages()}.items():
    (Path(__file__).parents[1] / name).write_text(text, encoding="utf-8")
