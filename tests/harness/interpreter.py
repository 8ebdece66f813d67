"""What the tests of this project ask of the interpreter that runs them, beyond the language."""

from __future__ import annotations

import sys

import pytest

CPYTHON = sys.implementation.name == "cpython"


def cpython_only(reason: str) -> pytest.MarkDecorator:
    """Skips a test elsewhere. `reason`: what the others do instead, or do not have."""
    return pytest.mark.skipif(not CPYTHON, reason=f"{sys.implementation.name}: {reason}")
