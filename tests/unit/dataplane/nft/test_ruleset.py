"""The skeleton's text."""

import re

from littlelb.core.hashing import TABLE_SIZES
from littlelb.dataplane.nft.ruleset import (
    EXACT,
    MARK_KEEP,
    MARK_MASK,
    MARK_MIXED,
    MARK_OURS,
    MARK_STICKY,
    class_sizes,
    render_affinity,
    render_ending,
    render_skeleton,
)


def test_every_class_has_its_chains_in_both_families() -> None:
    """At random, and by hash; for ports and for ranges of ports."""
    text = render_skeleton()
    for number in (4, 6):
        for size in class_sizes():
            for name in ("random", "hash", "random-range", "hash-range"):
                assert text.count(f"\tchain {name}{number}-{size} {{\n") == 1
    assert min(TABLE_SIZES) > EXACT


def test_every_jump_leads_to_a_chain_and_every_lookup_to_a_set() -> None:
    """The text is whole in itself."""
    text = render_skeleton() + render_ending(on=True)
    chains = set(re.findall(r"\tchain (\S+) \{", text))
    sets = set(re.findall(r"\t(?:map|set) (\S+) \{", text))
    assert set(re.findall(r"(?:goto|jump) (\S+)", text)) <= chains
    assert set(re.findall(r"@(\S+)", text)) <= sets


def test_the_skeleton_replaces_any_older_one() -> None:
    """In one transaction: made if missing, deleted, made; there is no moment without rules."""
    lines = render_skeleton().splitlines()
    assert lines[:3] == ["table inet littlelb", "delete table inet littlelb", "table inet littlelb {"]
    assert lines[3] == "\tset layout { type mark; elements = { 1 }; }"


def test_no_verdict_map_stands_behind_another() -> None:
    """The kernel walks over them for each way that leads there: with shared chains, the square of all Services."""
    body = render_skeleton()
    maps = set(re.findall(r"\tmap (\S+) \{[^}]* : verdict;", body))
    bases = {"prerouting", "output", "remember"}
    for chain, rules in re.findall(r"\tchain (\S+) \{\n((?:\t\t.*\n)*)\t\}", body):
        if chain not in bases:
            assert not maps & set(re.findall(r"@(\S+)", rules))


def test_only_our_bits_of_the_mark_are_set() -> None:
    """The rest of a connection's mark belongs to others."""
    assert MARK_OURS | MARK_KEEP | MARK_MIXED | MARK_STICKY == MARK_MASK
    for line in render_skeleton().splitlines():
        found = re.search(r"ct mark set (.*)", line)
        if found:
            mark = re.fullmatch(r"ct mark \| (0x[0-9a-f]{8})", found[1])
            assert mark is not None
            assert int(mark[1], 16) & ~MARK_MASK == 0


def test_chains_of_timeouts_are_made_once_each() -> None:
    """One chain for each distinct timeout; one that is there has the same rules afterwards, not twice as many."""
    text = render_affinity([60, 5, 60])
    assert re.findall(r"add chain inet littlelb (\S+)", text) == ["remember-5", "remember-60"]
    assert re.findall(r"flush chain inet littlelb (\S+)", text) == ["remember-5", "remember-60"]
    assert [line.split()[4] for line in text.splitlines() if line.startswith("add rule")] == [
        *(["remember-5"] * 2),
        *(["remember-60"] * 2),
    ]


def test_chains_that_end_flows_come_and_go() -> None:
    """They see every packet, so they are there only while a backend's time is up."""
    made = re.findall(r"chain (\S+) \{", render_ending(on=True))
    assert made == ["ending-forward", "ending-input", "ending-output"]
    assert re.findall(r"delete chain inet littlelb (\S+)", render_ending(on=False)) == made
