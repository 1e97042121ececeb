"""Teach a text-to-image model an action from a few pictures, apart from who does it and where.

What most programs need is offered here, and imported when it is first used: `import twinact` loads no library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinact.action import Action as Action
    from twinact.jobs.learn import learn as learn
    from twinact.jobs.models import open_model as open_model
    from twinact.sample import generate as generate
    from twinact.space import ActionSpace as ActionSpace

__version__ = "0.1.0"

PLACEHOLDER = "<act>"
"""Stands in prompts and captions where the action goes."""

ACTOR_PLACEHOLDER = "<actor>"
"""Stands in prompts where a customised actor goes."""

_OFFERED = {
    "Action": "twinact.action",
    "ActionSpace": "twinact.space",
    "generate": "twinact.sample",
    "learn": "twinact.jobs.learn",
    "open_model": "twinact.jobs.models",
}


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module 'twinact' has no attribute {name!r}")
    return getattr(import_module(_OFFERED[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_OFFERED})
