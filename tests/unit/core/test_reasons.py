"""Words that reach conditions and port errors of the API."""

import re

import pytest

from littlelb.core.reasons import Reason


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_a_word_that_the_api_takes(reason: Reason) -> None:
    """CamelCase, as meta/v1 Condition and `ingress[].ports[].error` (behind our prefix) are validated."""
    assert re.fullmatch(r"[A-Z][A-Za-z]{2,60}", reason)
