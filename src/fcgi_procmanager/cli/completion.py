"""`fcgi-procmanager completion bash|zsh`: what a shell offers behind Tab, from the parser.

Runs in a process of its own. Must never offer an option that is not there.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..basics import exits
from .arguments import Options
from .messages import PROGRAM, tell

if TYPE_CHECKING:
    from .described import Command, Option

__all__ = ["add"]

_DESCRIPTION = """\
Print the completion of both commands for a shell. For bash, put it where others are, or say

  eval "$(fcgi-procmanager completion bash)"

in .bashrc; for zsh, put it into a file _fcgi-procmanager in a folder of $fpath.
"""
_FILES = ("FILE", "PATH", "ADDRESS")
_ALIKE = {"config": "serve"}  # takes the options of another command


def add(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser("completion", help="print what a shell completes", description=_DESCRIPTION)
    parser.add_argument("shell", choices=("bash", "zsh"), help="for which shell")
    parser.set_defaults(run=lambda options: _run(options, commands), parser=parser)


def _run(options: Options, commands: argparse._SubParsersAction[Any]) -> int:
    from .described import (
        commands_of,
        start_server,
    )  # not above: what it loads, the superdaemon too, would be in every pool

    found = commands_of(commands)
    by_name = {command.name: command for command in found}
    found = [_with_options_of(one, by_name.get(_ALIKE.get(one.name, ""))) for one in found]
    lines = _bash(found, start_server()) if options.shell == "bash" else _zsh(found, start_server())
    for line in lines:
        tell(line)
    return exits.OK


def _with_options_of(command: Command, other: Command | None) -> Command:
    return command if other is None else command._replace(sections=other.sections)


def _named(options: Iterable[Option]) -> Iterator[Option]:
    """Without what is no option but told among them."""
    return (option for option in options if option.names[0].startswith("-"))


# -- bash ----------------------------------------------------------------------------------------------------------------

_BASH_HEAD = """\
# bash completion for fcgi-procmanager and fcgi-start-server, printed by 'fcgi-procmanager completion bash'

_fcgi_procmanager_files() {
    local IFS=$'\\n'
    COMPREPLY=($(compgen "$1" -- "$2"))
    compopt -o filenames 2>/dev/null
}
"""
_BASH_FUNCTION = """\
{function}() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} command={first} i
    # --name=value is three words
    if [[ $word == = ]]; then
        word=
    elif [[ $before == = ]]; then
        before=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
            --) _fcgi_procmanager_files -f "$word"; return ;;
            -*) ;;
            *) command=${{command:-${{COMP_WORDS[i]}}}} ;;
        esac
    done
    case $command,$before in
{values}
    esac
    case $command in
{words}
    esac
}}
complete -F {function} {program}
"""


def _bash(commands: list[Command], superdaemon: Command) -> Iterator[str]:
    yield _BASH_HEAD
    top = " ".join([*(command.name for command in commands), "--help", "--version"])
    yield _bash_function(
        PROGRAM, commands, "", [f'        "") COMPREPLY=($(compgen -W {shlex.quote(top)} -- "$word")) ;;']
    )
    yield _bash_function(superdaemon.name, [superdaemon], superdaemon.name, [])


def _bash_function(program: str, commands: list[Command], first: str, words: list[str]) -> str:
    values: list[str] = []
    for command in commands:
        values += _bash_values(command)
        offered = " ".join(
            [*command.words, *(name for option in _named(command.options) for name in option.names), "--help"]
        )
        words.append(f'        {command.name}) COMPREPLY=($(compgen -W {shlex.quote(offered)} -- "$word")) ;;')
    function = "_" + program.replace("-", "_")
    return _BASH_FUNCTION.format(
        function=function, program=program, first=first or "''", values="\n".join(values), words="\n".join(words)
    )


def _bash_values(command: Command) -> Iterator[str]:
    """What may stand behind each option."""
    for option in _named(command.options):
        if option.is_flag:
            continue
        names = "|".join(f"{command.name},{name}" for name in option.names)
        if option.choices:
            action = f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(option.choices))} -- "$word"))'
        elif option.metavar in _FILES:
            action = '_fcgi_procmanager_files -f "$word"'
        elif option.metavar == "DIRECTORY":
            action = '_fcgi_procmanager_files -d "$word"'
        else:
            action = ":"
        yield f"        {names}) {action}; return ;;"


# -- zsh -----------------------------------------------------------------------------------------------------------------

_ZSH_HEAD = """\
#compdef fcgi-procmanager fcgi-start-server
# zsh completion for fcgi-procmanager and fcgi-start-server, printed by 'fcgi-procmanager completion zsh'
"""
_ZSH_FUNCTION = """\
_fcgi_procmanager() {{
    if [[ $service == fcgi-start-server ]]; then
        _arguments \\
{superdaemon}
        return
    fi
    local -a commands
    commands=(
{names}
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        compadd -- --help --version
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
{cases}
    esac
}}

_fcgi_procmanager "$@"
"""


def _zsh(commands: list[Command], superdaemon: Command) -> Iterator[str]:
    yield _ZSH_HEAD
    names = "\n".join(f"        {shlex.quote(f'{one.name}:{one.purpose}')}" for one in commands)
    cases = "\n".join(f"        {one.name}) _arguments \\\n{_zsh_arguments(one)} ;;" for one in commands)
    yield _ZSH_FUNCTION.format(superdaemon=_zsh_arguments(superdaemon), names=names, cases=cases)


def _zsh_arguments(command: Command) -> str:
    given = [spec for option in _named(command.options) for spec in _zsh_option(option)]
    rest = f"*:argument:({' '.join(command.words)})" if command.words else "*:argument:_files"
    return " \\\n".join(f"            {shlex.quote(spec)}" for spec in [*given, "--help[show the options]", rest])


def _zsh_option(option: Option) -> Iterator[str]:
    told = re.sub(r"([\[\]\\:])", r"\\\1", option.help)
    for name in option.names:
        if option.is_flag:
            yield f"{name}[{told}]"
            continue
        values = f"({' '.join(option.choices)})" if option.choices else ""
        values = values or (
            "_files" if option.metavar in _FILES else "_files -/" if option.metavar == "DIRECTORY" else " "
        )
        yield f"*{name}[{told}]:{option.metavar.replace(':', ' ')}:{values}"
