"""Programs of the machine that some tests need. A test whose program is missing is skipped, and says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache

import pytest

SEARCH = [
    os.path.dirname(sys.executable),
    *os.environ.get("PATH", os.defpath).split(os.pathsep),
    *("/usr/local/sbin", "/usr/sbin", "/sbin"),
]


def find(tool: str) -> str | None:
    """The path of a program; those of this virtual environment come first, those for administrators are seen too."""
    return shutil.which(tool, path=os.pathsep.join(SEARCH))


def require(tool: str) -> str:
    """The path of a program, or the test is skipped."""
    return find(tool) or pytest.skip(f"{tool} is not installed")


def require_any(*tools: str) -> str:
    """The path of the first of several programs that is installed (`php-fpm`, `php-fpm8.2`), or the test is skipped."""
    return next(filter(None, map(find, tools)), None) or pytest.skip(f"{tools[0]} is not installed")


def require_perl(*modules: str) -> str:
    """The path of a perl that can load the modules, or the test is skipped."""
    perl = require("perl")
    for module in modules:
        if not _perl_has(perl, module):
            pytest.skip(f"the Perl module {module} is not installed")
    return perl


@cache
def _perl_has(perl: str, module: str) -> bool:
    done = subprocess.run([perl, f"-M{module}", "-e1"], capture_output=True, check=False, timeout=30)
    return done.returncode == 0
