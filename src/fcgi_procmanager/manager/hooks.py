"""Whether the hooks around a request are this package's own. Pure."""

from __future__ import annotations

from typing import Any

_HOOKS = ("pre_dispatch", "post_dispatch", "pm_pre_dispatch", "pm_post_dispatch")
_PACKAGE = __name__.partition(".")[0]


def overridden(manager: object) -> bool:
    """By a subclass, on the object itself, or by a change of one of our classes."""
    scopes = (vars(manager), *map(vars, type(manager).__mro__))
    found = [scope[hook] for scope in scopes for hook in _HOOKS if hook in scope]
    return not all(map(_is_ours, found))


def _is_ours(hook: Any) -> bool:
    # Not by its own name and module: functools.wraps copies those.
    module = getattr(hook, "__globals__", {}).get("__name__", "")
    return bool(module.partition(".")[0] == _PACKAGE)
