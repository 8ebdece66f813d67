"""Manual pages, in roff with the macros of man(7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fcgi_procmanager.cli.described import Command, Section, paragraphs
from fcgi_procmanager.cli.messages import PROGRAM, one_line

__all__ = ["render_all", "render_one"]

_ELSEWHERE = "Options may also stand in a file or in variables: see docs/CONFIG.md of the project."


def render_all(purpose: str, commands: Iterable[Command], end: str, version: str) -> str:
    """Of the command with commands."""
    lines = [
        *_head(PROGRAM, version, purpose[:1].lower() + purpose[1:].rstrip(".")),
        f"{_bold(PROGRAM)} {_italic('COMMAND')} [{_italic('OPTIONS')}]",
    ]
    lines += [".SH DESCRIPTION", _text(purpose), ".PP", _text(_ELSEWHERE), ".SH COMMANDS"]
    for command in commands:
        lines += [f".SS {_text(f'{command.name} {command.arguments}'.strip())}", *_body(command, ".PP")]
    title, *statuses = end.rstrip().split("\n")
    return "\n".join([*lines, f".SH {title.rstrip(':').upper()}", ".nf", *map(_text, statuses), ".fi", ""])


def render_one(command: Command, version: str) -> str:
    """Of a command that has none."""
    lines = _head(command.name, version, command.purpose)
    lines = [*lines, f"{_bold(command.name)} [{_italic('OPTIONS')}] {_text(command.arguments)}", ".SH DESCRIPTION"]
    return "\n".join([*lines, *_body(command, ".SH"), ""])


def _head(name: str, version: str, purpose: str) -> list[str]:
    return [
        f'.TH {_text(name.upper())} 1 "" "fcgi\\-procmanager {_text(version)}" "User Commands"',
        ".nh",  # a word that is cut cannot be pasted
        ".ad l",
        ".SH NAME",
        f"{_text(name)} \\- {_text(purpose)}",
        ".SH SYNOPSIS",
    ]


def _body(command: Command, heading: str) -> Iterator[str]:
    for number, text in enumerate(paragraphs(command.description)):
        if number:
            yield ".PP"
        yield _text(one_line(text))
    for section in command.sections:
        yield from _section(section, heading)
    yield from _end(command.end)


def _section(section: Section, heading: str) -> Iterator[str]:
    title = section.title + (f", {section.description}" if section.description else "")
    if heading == ".SH":
        yield f".SH {_text(title.upper())}"
    else:
        yield ".PP"
        yield f"{_bold(title)}"
    for option in section.options:
        yield ".TP"
        names = ", ".join(map(_bold, option.names))
        yield names + (f" {_italic(option.metavar)}" if option.metavar else "")
        yield _text(option.help) or "\\&"


def _end(text: str) -> Iterator[str]:
    for part in paragraphs(text):
        title, *lines = part.split("\n")
        yield ".PP"
        if lines and all(line.startswith("  ") for line in lines):
            yield _text(title)
            yield ".nf"
            yield from map(_text, lines)
            yield ".fi"
        else:
            yield _text(one_line(part))


def _bold(text: str) -> str:
    return f"\\fB{_text(text)}\\fR"


def _italic(text: str) -> str:
    return f"\\fI{_text(text)}\\fR"


def _text(text: str) -> str:
    """A line of text: a dot or a quote in front would be a macro, and a bare dash a hyphen, which nobody can paste."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in text)
    return f"\\&{text}" if text.startswith(".") else text
