"""docs/OPTIONS.md: every command and every option, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fcgi_procmanager.cli.borrowed import ELSEWHERE, SAME
from fcgi_procmanager.cli.described import Command, Section, paragraphs
from fcgi_procmanager.cli.messages import one_line

__all__ = ["render"]

_HEAD = """\
# Commands and options

Which options are there? As `--help` of each command tells them; this page is written from the same place, by
`python docs/generate`.

An option of `serve`, `exec` and `fcgi-start-server` may also stand in a file or in a variable: see [CONFIG](CONFIG.md).
"""
_BORROWED = """\
## From gunicorn and uvicorn

`serve` takes these for its own, since they mean the same. An address of `--bind` is `unix:/path.sock`, `HOST:PORT` or `fd://N`: it
speaks FastCGI, to a web server; browsers are served by `--web`.
"""
_OTHERS = """\
Others are refused, by one line that says what to do here:
"""


def render(commands: Iterable[Command]) -> str:
    parts = [_HEAD]
    for command in commands:
        parts += _command(command)
    parts += [_BORROWED, _table(("theirs", "ours"), ((_code([name]), _code([ours])) for name, ours in SAME.items()))]
    parts += [_OTHERS, _table(("theirs", "what to do"), ((_code(names), _escaped(told)) for names, told in ELSEWHERE))]
    return "\n".join(parts)


def _command(command: Command) -> Iterator[str]:
    yield f"## {command.name}\n"
    for text in paragraphs(command.description):
        yield _escaped(one_line(text)) + "\n"
    if command.arguments:
        yield f"Its arguments: `{command.arguments}`\n"
    for section in command.sections:
        yield _section(section)
    for text in paragraphs(command.end):
        yield _end(text) + "\n"


def _section(section: Section) -> str:
    about = f", {section.description}" if section.description else ""
    rows = ((f"`{option.shown}`".replace("|", "\\|"), _escaped(option.help)) for option in section.options)
    return _table((section.title + about, ""), rows)


def _end(text: str) -> str:
    """A paragraph, or a heading with indented lines."""
    title, *lines = text.split("\n")
    if lines and all(line.startswith("  ") for line in lines):
        return "\n".join([_escaped(title), "", *(f"- {_escaped(one_line(line))}" for line in lines)])
    return _escaped(one_line(text))


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join([f"| {head[0]} | {head[1]} |", "| --- | --- |", *(f"| {one} | {two} |" for one, two in rows), ""])


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _escaped(text: str) -> str:
    for character in "\\*_<|":
        text = text.replace(character, f"\\{character}")
    return text
