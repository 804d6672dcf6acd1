"""What a plane reports of a frontend that is not as it was last applied: a value that nobody wants."""

from typing import Final

from littlelb.core.model import Forward

UNSETTLED: Final = Forward(service="", backends=())
"""The loop finds that it differs from whatever is wanted, and applies that, or removes the frontend."""
