"""`python -m fcgi_procmanager`: the command, under whichever interpreter is asked."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
