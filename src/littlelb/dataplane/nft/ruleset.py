"""The skeleton: one table, loaded once as text; Services are elements of its maps, never rules (nft(8), kernel 5.11).

    prerouting ─ TCP, UDP new to conntrack ─→ services ─→ class ─→ dnat to a slot
       (output)                                   │ miss: guard, mixed, sticky ─→ classes, ranges ─→ class
                                                  │ miss: an address that we hold ─→ refuse
    postrouting ─ our bit in the connection's mark ─→ [remember] ─→ kept source, or masquerade

`services4` sends VIP . protocol . port to the class of its size; `random4-3` picks one of 3 slots at random, `hash4-3`
by the client's address and port with a fixed seed, so that another machine with the same elements picks the same. A
Service that needs a *stage* is not in it but in `staged4`, in the sets of its stages, and in `classes4`; who needs none
does not pay for them.

Stages ask sets, never verdict maps: whenever a verdict changes, the kernel walks over all elements of each verdict map,
and before 6.18 once more for each way that leads there (nft_chain_validate). A map behind a chain that many Services
share would take the square of their number.

Everything is decided on the first packet that conntrack sees of a connection: the chains are of type nat. Most often
it is a SYN. A packet from mid-stream (conntrack picks it up: tcp_loose) belongs to a connection of one of two kinds.
If this machine has a socket for it (`socket`, Linux 4.18), a worker process carries it, and did so before this table
existed: it must not be translated. Else it may be one that another machine with the same elements began: where its slot
is a hash of the client it goes on here, to the same backend. Elsewhere whoever gets it answers with a RST, as without
us.

Affinity: IPv4 clients are remembered in `affinity4` for the Service's timeout. nft 1.0.6 cannot write the same for IPv6
(a key above 16 bytes aborts it), so there the slot is a hash of the client's address over a Maglev table: it stays the
same for ever, but for the share of clients whose backend goes.

A hole in a class (a lookup between two generations of the table) falls through to slot 0, which every class has.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from littlelb.core.hashing import TABLE_SIZES

TABLE: Final = "littlelb"
LAYOUT: Final = 1
"""Counted up when the skeleton changes: a table with another number in its set `layout` is replaced at once."""
EXACT: Final = 64
"""Up to so many backends of equal weight get one slot each; everybody else gets a Maglev table."""
HASH_SEED: Final = 0x6C6C6231
"""Fixed: two machines must agree."""
DEFAULT_AFFINITY_SECONDS: Final = 10_800
AFFINITY_SIZE: Final = 262_144
"""Clients remembered at most, for each family and protocol."""

MARK_OURS: Final = 0x0100_0000
"""Bits of the connection mark (ct mark) that are ours; all others are left as they are."""
MARK_KEEP: Final = 0x0200_0000
"""Every backend of the Service sees the client's address."""
MARK_MIXED: Final = 0x0400_0000
"""Some of its backends do: those in `kept4`, `kept6`."""
MARK_STICKY: Final = 0x0800_0000
"""Its clients are remembered."""
MARK_MASK: Final = 0x0F00_0000

_KINDS: Final = (("", ""), ("range_", "-range"))
"""Frontends of one port, and of a range of ports: what stands before the names of their sets, and within chains'."""
_FAMILIES: Final = ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr"))
_PROTOCOLS: Final = ("tcp", "udp")
_ENDING_HOOKS: Final = ("forward", "input", "output")
"""Packets of others, those to backends on this machine itself, and those of them and of clients here."""
ENDING_CHAINS: Final = frozenset(f"ending-{hook}" for hook in _ENDING_HOOKS)
"""Names of the chains of `render_ending`."""
ENDING_SETS: Final = ("ending4", "ending6")
"""Flows whose time is up."""
_MIDSTREAM: Final = "tcp flags & (fin | syn | rst | ack) != syn"
"""No pure SYN, and no connection that conntrack knows."""


def class_sizes() -> Iterator[int]:
    """All sizes that have chains."""
    yield from range(1, EXACT + 1)
    yield from TABLE_SIZES


def entry_map(prefix: str) -> str:
    """Name of the map that every packet to a frontend meets first; `prefix` as in `_KINDS`."""
    return "ranges" if prefix else "services"


def frontend_maps(number: int, prefix: str) -> tuple[str, ...]:
    """Names of the verdict maps."""
    maps = [entry_map(prefix), *([] if prefix else ["classes"]), *([f"{prefix}remember"] if number == 4 else [])]
    return tuple(f"{name}{number}" for name in maps)


def stage_sets(number: int, prefix: str) -> tuple[str, ...]:
    """Names of the sets that say who passes which stage, and who only what enters by the link."""
    stages = ("staged", "guarded", "mixed", *(("sticky", "sticky_keep") if number == 4 else ()), "link_only")
    return tuple(f"{prefix}{name}{number}" for name in stages)


def frontend_sets() -> tuple[str, ...]:
    """All sets and maps whose elements belong to one frontend each."""
    names: list[str] = []
    for number, *_ in _FAMILIES:
        for prefix, _ in _KINDS:
            names += [*frontend_maps(number, prefix), *stage_sets(number, prefix)]
            names += [f"{prefix}slots{number}", f"{prefix}kept{number}"]
        names.append(f"allowed{number}")
    return tuple(names)


def address_sets() -> tuple[str, ...]:
    """All sets of addresses that are ours."""
    return tuple(f"{name}{number}" for number, *_ in _FAMILIES for name in ("held", "alive"))


def count_rules() -> int:
    """How many rules the skeleton has, but for chains that come and go (see `is_extra_chain`)."""
    chain, rules = "", 0
    for line in _body():
        if line.startswith("\tchain "):
            chain = line.split()[1]
        elif line.startswith("\t\t") and chain and not is_extra_chain(chain):
            rules += not line.startswith("\t\ttype ")
    return rules


def is_extra_chain(name: str) -> bool:
    """Is it one of `render_affinity` or `render_ending`?"""
    return name.startswith(("remember-", "ending-"))


def render_skeleton() -> str:
    """Return the text for `nft -f -`: makes the table, or replaces one of another layout, in one transaction."""
    return "\n".join(["table inet littlelb", "delete table inet littlelb", "table inet littlelb {", *_body(), "}", ""])


def render_affinity(seconds: Iterable[int]) -> str:
    """Return the text that makes the chains of these timeouts, or fills those that are there anew."""
    lines: list[str] = []
    for timeout in sorted(set(seconds)):
        chain = f"chain inet littlelb remember-{timeout}"
        lines += [f"add {chain}", f"flush {chain}"]
        lines += [f"add rule inet littlelb remember-{timeout} {rule}" for rule in _updates(timeout)]
    return "".join(f"{line}\n" for line in lines)


def render_ending(*, on: bool) -> str:
    """Return the text that makes, or removes, the chains that reset flows whose time is up: they see every packet.

    A reset passes, or the other side would never hear it; those that the kernel makes here go out through `output`.
    """
    lines = [f"{verb} chain inet littlelb {name}" for name in sorted(ENDING_CHAINS) for verb in ("add", "delete")]
    if not on:
        return "".join(f"{line}\n" for line in lines)
    lines.append("table inet littlelb {")
    for hook in _ENDING_HOOKS:
        lines += [
            f"\tchain ending-{hook} {{",
            f"\t\ttype filter hook {hook} priority filter - 1; policy accept;",
            f"\t\tct mark & {MARK_OURS:#010x} == 0 accept",
            "\t\ttcp flags & rst == rst accept",
        ]
        for number, family, _ in _FAMILIES:
            key = f"{_original(family)} . ct reply {family} saddr . ct reply proto-src"
            lines.append(f"\t\tmeta l4proto tcp {key} @ending{number} reject with tcp reset")
        lines.append("\t}")
    return "\n".join([*lines, "}", ""])


def _body() -> Iterator[str]:
    yield from _shared_sets()
    for number, family, address in _FAMILIES:
        yield from _maps(number, family, address)
    yield from _base_chains()
    yield from _postrouting()
    for number, family, _ in _FAMILIES:
        yield from _stages(number, family)
    yield from _remember(DEFAULT_AFFINITY_SECONDS)
    for number, family, _ in _FAMILIES:
        for size in class_sizes():
            yield from _classes(number, family, size)


def _shared_sets() -> Iterator[str]:
    yield f"\tset layout {{ type mark; elements = {{ {LAYOUT} }}; }}"
    yield "\tset link { type ifname; }"
    yield "\tset same_link { type iface_index . iface_index; }"


def _maps(number: int, family: str, address: str) -> Iterator[str]:
    frontend = f"{address} . inet_proto . inet_service"
    slot = f"{family} daddr . meta l4proto . th dport . numgen random mod 65536"
    for prefix, _ in _KINDS:
        interval = " flags interval;" if prefix else ""
        for name in frontend_maps(number, prefix):
            yield f"\tmap {name} {{ type {frontend} : verdict;{interval} }}"
        for name in stage_sets(number, prefix):
            yield f"\tset {name} {{ type {frontend};{interval} }}"
        port = "" if prefix else " . th dport"
        yield f"\tmap {prefix}slots{number} {{ typeof {slot} : {family} daddr{port};{interval} counter; }}"
        yield f"\tset {prefix}kept{number} {{ type {frontend} . {address};{interval} }}"
    yield f"\tset allowed{number} {{ type {frontend} . {address}; flags interval; }}"
    yield f"\tset ending{number} {{ type {frontend} . {address} . inet_service; }}"
    yield f"\tset held{number} {{ type {address}; }}"
    yield f"\tset alive{number} {{ type {address}; }}"
    if number == 4:
        yield "\tmap affinity4 {"
        yield f"\t\ttypeof ip saddr . {_frontend(family)} : ip daddr . th dport"
        yield f"\t\tsize {AFFINITY_SIZE}"
        yield "\t\tflags dynamic,timeout"
        yield "\t}"


def _base_chains() -> Iterator[str]:
    yield "\tchain ping {"
    yield "\t\ttype filter hook prerouting priority dstnat - 2; policy accept;"
    yield "\t\ticmp type echo-request ip daddr @held4 ip daddr != @alive4 drop"
    yield "\t\ticmpv6 type echo-request ip6 daddr @held6 ip6 daddr != @alive6 drop"
    yield "\t}"
    for hook, elsewhere, mine in (("prerouting", "iifname != @link ", " socket transparent 0"), ("output", "", "")):
        yield f"\tchain {hook} {{"
        yield f"\t\ttype nat hook {hook} priority -101; policy accept;"
        yield f"\t\t{_MIDSTREAM}{mine} accept"
        for number, family, _ in _FAMILIES:
            yield f"\t\t{_frontend(family)} @link_only{number} {elsewhere}accept"
        for number, family, _ in _FAMILIES:
            yield f"\t\t{_frontend(family)} vmap @services{number}"
        yield "\t\tmeta l4proto { icmp, icmpv6 } accept"
        for number, family, _ in _FAMILIES:
            yield f"\t\t{_frontend(family)} @staged{number} jump stages{number}"
            yield f"\t\t{_frontend(family)} vmap @classes{number}"
            yield f"\t\t{_frontend(family)} @range_link_only{number} {elsewhere}accept"
            yield f"\t\t{_frontend(family)} @range_staged{number} jump stages-range{number}"
            yield f"\t\t{_frontend(family)} vmap @ranges{number}"
        for number, family, _ in _FAMILIES:
            yield f"\t\t{family} daddr @held{number} goto refuse{number}"
        yield "\t}"


def _postrouting() -> Iterator[str]:
    yield "\tchain postrouting {"
    yield "\t\ttype nat hook postrouting priority srcnat - 1; policy accept;"
    yield f"\t\tct mark & {MARK_OURS:#010x} == 0 accept"
    yield f"\t\tct mark & {MARK_STICKY:#010x} != 0 jump remember"
    yield f"\t\tct mark & {MARK_KEEP | MARK_MIXED:#010x} == 0 masquerade fully-random"
    yield "\t\tfib saddr type local masquerade fully-random"
    yield "\t\tmeta iif . meta oif @same_link masquerade fully-random"
    for _, family, _ in _FAMILIES:
        yield f"\t\tct mark & {MARK_KEEP:#010x} != 0 snat {family} to {family} saddr"
    for number, family, protocol in _each():
        key = f"{_original(family)} . {family} daddr"
        for prefix, _ in _KINDS:
            yield f"\t\tmeta l4proto {protocol} {key} @{prefix}kept{number} snat {family} to {family} saddr"
    yield "\t\tmasquerade fully-random"
    yield "\t}"
    yield "\tchain remember {"
    for protocol in _PROTOCOLS:
        for prefix, _ in _KINDS:
            yield f"\t\tmeta l4proto {protocol} {_original('ip')} vmap @{prefix}remember4"
    yield "\t}"


def _stages(number: int, family: str) -> Iterator[str]:
    frontend = _frontend(family)
    yield f"\tchain refuse{number} {{"
    yield "\t\tmeta l4proto tcp reject with tcp reset"
    yield "\t\treject with icmpx port-unreachable"
    yield "\t}"
    for prefix, kind in _KINDS:
        yield f"\tchain stages{kind}{number} {{"
        yield f"\t\t{frontend} @{prefix}guarded{number} {frontend} . {family} saddr != @allowed{number} drop"
        yield f"\t\t{frontend} @{prefix}mixed{number} ct mark set ct mark | {MARK_MIXED:#010x}"
        if number == 4:
            yield f"\t\t{frontend} @{prefix}sticky4 jump sticky4"
            yield f"\t\t{frontend} @{prefix}sticky_keep4 jump sticky-keep4"
        yield "\t}"
    if number == 4:
        yield from _sticky(frontend)


def _sticky(frontend: str) -> Iterator[str]:
    for name, mark in (("sticky", MARK_OURS), ("sticky-keep", MARK_OURS | MARK_KEEP)):
        yield f"\tchain {name}4 {{"
        yield f"\t\tct mark set ct mark | {mark | MARK_STICKY:#010x}"
        yield f"\t\tdnat ip to ip saddr . {frontend} map @affinity4"
        yield "\t}"


def _remember(seconds: int) -> Iterator[str]:
    yield f"\tchain remember-{seconds} {{"
    yield from (f"\t\t{rule}" for rule in _updates(seconds))
    yield "\t}"


def _updates(seconds: int) -> Iterator[str]:
    key = f"ct original ip saddr . {_original('ip')}"
    for protocol in _PROTOCOLS:
        yield f"meta l4proto {protocol} update @affinity4 {{ {key} timeout {seconds}s : ip daddr . th dport }}"


def _classes(number: int, family: str, size: int) -> Iterator[str]:
    client = f"{family} saddr . th sport"
    slots = [
        ("random", MARK_OURS, f"numgen random mod {size}"),
        ("hash", MARK_OURS | MARK_KEEP, f"jhash {client} mod {size} seed {HASH_SEED:#010x}"),
    ]
    if number == 6 and size > EXACT:
        slot = f"jhash ip6 saddr mod {size} seed {HASH_SEED:#010x}"
        slots += [("client", MARK_OURS, slot), ("client-keep", MARK_OURS | MARK_KEEP, slot)]
    for name, mark, slot in slots:
        for prefix, kind in _KINDS:
            yield f"\tchain {name}{kind}{number}-{size} {{"
            yield f"\t\tct mark set ct mark | {mark:#010x}"
            yield f"\t\tdnat {family} to {_frontend(family)} . {slot} map @{prefix}slots{number}"
            yield f"\t\tdnat {family} to {_frontend(family)} . numgen random mod 1 map @{prefix}slots{number}"
            yield "\t}"


def _each() -> Iterator[tuple[int, str, str]]:
    """Families times protocols: nft 1.0.6 knows the type of `ct original proto-dst` only behind a protocol."""
    for number, family, _ in _FAMILIES:
        for protocol in _PROTOCOLS:
            yield number, family, protocol


def _frontend(family: str) -> str:
    return f"{family} daddr . meta l4proto . th dport"


def _original(family: str) -> str:
    return f"ct original {family} daddr . meta l4proto . ct original proto-dst"
