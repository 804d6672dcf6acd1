"""A plan as people and programs read it: one line for each change that a run would make."""

from enum import StrEnum

from msgspec import Struct


class Verb(StrEnum):
    """What a run would do with one thing."""

    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"


class PlanLine(Struct, frozen=True, gc=False, kw_only=True):
    """One change; `before` is empty for an addition, `after` for a removal."""

    phase: str
    verb: Verb
    key: str
    before: str = ""
    after: str = ""


class PlanDocument(Struct, frozen=True, gc=False, kw_only=True):
    """What a run would change, and what could not be found out."""

    lines: tuple[PlanLine, ...] = ()
    refused: tuple[str, ...] = ()
    """What of the Services a run would not serve, and why. Their owners' affair: not an error of the plan."""
    errors: tuple[str, ...] = ()
    nft: str = ""
    """What of it is written to the kernel plane's table, as text for `nft -f -`."""

    @property
    def exit_code(self) -> int:
        """0 no change, 2 changes, 1 any error."""
        if self.errors:
            return 1
        return 2 if self.lines else 0
