"""What pyproject.toml cannot say: the README as a package index shows it, where links to files of this project lead nowhere."""

from __future__ import annotations

import re
from pathlib import Path

WHERE = "The pages and examples named here are files of the source distribution (`pip download --no-deps --no-binary :all: fcgi-procmanager`).\n\n"


def for_an_index(readme: str) -> str:
    """Links to files become their names, pictures are left out, and it is said where the files are."""
    text = re.sub(r"!\[[^]]*\]\((?!https?:)[^)]+\)\n+", "", readme)
    text = re.sub(r"\[([^]]+)\]\((?!https?:|#)([^)#]+)[^)]*\)", _named, text)
    title, what, rest = text.split("\n\n", 2)
    return f"{title}\n\n{what}\n\n{WHERE}{rest}"


def _named(link: re.Match[str]) -> str:
    return f"`{link[2]}`" if link[1] == link[2] else f"{link[1]} (`{link[2]}`)"


if __name__ == "__main__":
    from setuptools import setup

    readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    setup(long_description=for_an_index(readme), long_description_content_type="text/markdown")
