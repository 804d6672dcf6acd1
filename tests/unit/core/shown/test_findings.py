"""Findings as JSON."""

import msgspec

from littlelb.core.shown.findings import Finding, Level
from littlelb.core.shown.status import encode


def test_findings_encode() -> None:
    """Findings have stable keys."""
    finding = Finding(level=Level.WARN, subject="sysctl", message="off", remedy="sysctl -w …")
    assert msgspec.json.decode(encode((finding,))) == [
        {"level": "warn", "subject": "sysctl", "message": "off", "remedy": "sysctl -w …"}
    ]
