"""What the status page shows, and what it cannot be made to do."""

from html.parser import HTMLParser

import msgspec

from littlelb.core.shown.status import StatusReport
from littlelb.web.pages import CONTENT_SECURITY_POLICY, render_page


class Reader(HTMLParser):
    """Collects tags and text."""

    def __init__(self) -> None:
        """Start with nothing read."""
        super().__init__()
        self.tags: set[str] = set()
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag."""
        del attrs
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        """Note the text."""
        self.words.append(data)


def read(report: StatusReport) -> Reader:
    """Render and parse."""
    reader = Reader()
    reader.feed(render_page(report))
    return reader


def test_the_page_tells_it_all(report: StatusReport) -> None:
    """Services with addresses, ports, backends and connections, the source, and the last pass are on the page."""
    text = " ".join(read(report).words)
    for fact in (
        "default/web",
        "203.0.113.7",
        "80/TCP",
        "2/3",
        "5 open (1 draining), 100 so far, 2.0 KiB in, 4.0 KiB out",
        "50 of 1000 entries",
        "refused",
        "InvalidAddress",
        "https://192.0.2.1:6443",
        "number 9 at 2026-01-01 00:01:40 UTC, 12.5 ms",
        "203.0.113.9: EBUSY",
        "littlelb on lb-1",
    ):
        assert fact in text


def test_texts_of_objects_are_only_text(report: StatusReport) -> None:
    """Markup and control characters in a reason are shown, not obeyed."""
    reader = read(report)
    assert "script" not in reader.tags
    assert any('<script>alert("1")</script>\\x1b[31m\\u202e' in words for words in reader.words)
    assert render_page(report).replace("\n", "").isprintable()


def test_policy_allows_our_style_only() -> None:
    """The policy names the one style sheet by its hash and forbids the rest."""
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none'")
    assert "style-src 'sha256-" in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY


def test_an_empty_world(report: StatusReport) -> None:
    """Without Services the page says so, and says when the API server does not answer."""
    daemon = msgspec.structs.replace(report.daemon, connected=False, synced=False)
    text = " ".join(read(StatusReport(daemon=daemon)).words)
    assert "No Service of type LoadBalancer is ours yet." in text
    assert "does not answer: what was known is kept" in text
    assert "not synced with" in text
    restored = msgspec.structs.replace(daemon, from_state_file=True)
    assert "this is the last known world" in " ".join(read(StatusReport(daemon=restored)).words)


def test_a_large_world_is_cut(report: StatusReport) -> None:
    """With very many Services those that need somebody's eyes come first, and the rest is counted."""
    bad, good = report.services
    many = tuple(msgspec.structs.replace(good, key=f"default/web-{number}") for number in range(1000))
    words = read(msgspec.structs.replace(report, services=(*many, bad))).words
    assert "default/bad" in words
    assert sum(word.startswith("default/") for word in words) == 500
    assert "and 501 more: see " in words
