"""What would change: the one type that every planner returns."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Callable

from salt.exceptions import SaltInvocationError

from _mta_records import NamedTuple, dataclass

Change = dict[str, Any]  # {"old": …, "new": …}

# The stronger one includes the weaker one; what is stopped needs neither.
STRENGTH = {"reload": 1, "restart": 2, "stop": 3}


@dataclass
class Plan:
    """
    What would change.

    changes
        Item to ``{"old": …, "new": …}``, as a state shows it; secrets never by their value.

    activate
        Service to what puts the changes in force: ``reload``, ``restart`` or ``stop``.

    errors
        Why it cannot be done; nothing is changed then.

    notes
        Lines for the state's comment, whether something changes or not.

    replaced
        Paths of the files that are replaced. Default: the paths that ``changes`` has.
    """

    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    activate: dict[str, str] = dataclasses.field(default_factory=dict)
    errors: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    replaced: list[str] | None = dataclasses.field(default=None, compare=False)

    def paths(self) -> list[str]:
        """
        Return the files that are replaced or removed, as far as it is known; directories may be among them.

        A symbolic link is followed where a file is written.
        """
        if self.replaced is not None:
            return [os.path.realpath(path) for path in self.replaced]
        named = {item: change for item, change in self.changes.items() if item.startswith("/")}
        return [item if change.get("new") is None else os.path.realpath(item) for item, change in named.items()]


class Participant(NamedTuple):
    """
    What takes part in an apply: a resource of the host that is planned, and changed as planned.

    subject
        Whose work it is, such as ``postconf``: under this name it is recorded what has been changed.

    plan
        ``plan(minion, **arguments) -> Plan``; reads only.

    apply
        ``apply(minion, **arguments)``: make what the plan tells true; called under the lock, after such a plan.

    remember
        ``remember(minion)``: keep what planning found out, when nothing has changed. Default: nothing.

    rests_on_files
        Whether the plan looks at files by the functions of :py:mod:`_mta_system` alone, which notice that, and at
        what Salt knows by the minion: one that changes nothing is then remembered (:py:mod:`_mta_plan_cache`).
    """

    subject: str
    plan: Callable[..., Plan]
    apply: Callable[..., None]
    remember: Callable[..., None] | None = None
    rests_on_files: bool = False


def stronger(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """
    Merge two activations: of two actions for one service the stronger one.

    Raises ``SaltInvocationError`` for an action that there is not.
    """
    merged = dict(first)
    for service, action in second.items():
        if action not in STRENGTH:
            raise SaltInvocationError(f"{service} can be activated by {', '.join(STRENGTH)}, not {action!r}")
        if STRENGTH[action] > STRENGTH.get(merged.get(service, ""), 0):
            merged[service] = action
    return merged
