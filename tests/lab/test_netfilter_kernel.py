"""Our netlink against the kernel and against nft: what one writes the other lists, and refusals name their cause."""

import errno
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from operator import attrgetter
from pathlib import Path

import pytest

from littlelb.core.errors import Permanent, Transient
from littlelb.dataplane.netfilter import keys, sets, wire
from littlelb.dataplane.netfilter.batch import Kind, Request
from littlelb.dataplane.netfilter.chains import BaseChain, Table
from littlelb.dataplane.netfilter.element_reader import element_at
from littlelb.dataplane.netfilter.errors import KernelRefusal, TooLarge
from littlelb.dataplane.netfilter.sets import Element, SetName, Verdict, VerdictCode
from littlelb.dataplane.netfilter.socket import NfSocket
from littlelb.testing.netns import Namespace, Network

pytestmark = pytest.mark.lab

TABLE = """
table inet ll {
  chain c { }
  map slots4 { typeof ip daddr . meta l4proto . th dport . numgen random mod 64 : ip daddr . th dport
  }
  map slots6 { typeof ip6 daddr . meta l4proto . th dport . numgen random mod 64 : ip6 daddr . th dport
  }
  map services { type ipv4_addr . inet_proto . inet_service : verdict
  }
  map counted { type ipv4_addr : verdict
    counter
  }
  set ranges { type ipv4_addr . inet_service . ipv4_addr; flags interval; }
  set timed { type ipv4_addr; flags timeout; }
}
"""


class Box:
    """A namespace with the table above, and our socket in it."""

    def __init__(self, home: Namespace) -> None:
        self.home = home
        self.nft(TABLE)
        self.socket = home.call(NfSocket)

    def nft(self, text: str) -> None:
        """Run a script of nft."""
        subprocess.run(self.home.command(["nft", "-f", "-"]), input=text, text=True, check=True, timeout=30)

    def listed(self, kind: str, name: str) -> str:
        """What nft says of a set or map, on one line."""
        return " ".join(self.home.run(["nft", "--numeric", "list", kind, "inet", "ll", name]).stdout.split())

    def read(self, name: str) -> list[Element]:
        """What we read out of a set or map."""
        return [element for part in self.socket.dump_elements(inet(name)) for element in part]


@pytest.fixture
def box() -> Iterator[Box]:
    """A namespace with the table, removed after the test."""
    with Network("nfl") as net:
        made = Box(net.namespace("box"))
        yield made
        made.socket.close()


def ordered(elements: Iterable[Element]) -> list[Element]:
    """Sets have no order."""
    return sorted(elements, key=attrgetter("key"))


def inet(name: str) -> SetName:
    """A set of the table."""
    return SetName(wire.NFPROTO_INET, "ll", name)


def service(vip: str, protocol: int, port: int) -> bytes:
    """The key of a service."""
    fields = (keys.address_field(ip_address(vip)), keys.protocol_field(protocol), keys.port_field(port))
    return b"".join(fields)


def slot(vip: str, number: int) -> bytes:
    """The key of a slot of TCP port 80."""
    return service(vip, 6, 80) + keys.number_field(number)


def backend(address: str, port: int) -> bytes:
    """The value of a slot."""
    return keys.address_field(ip_address(address)) + keys.port_field(port)


@pytest.mark.parametrize(
    ("name", "vip", "address"),
    [("slots4", "203.0.113.7", "10.1.0.5"), ("slots6", "2001:db8:0:113::7", "2001:db8:1::5")],
    ids=["IPv4", "IPv6"],
)
def test_concatenated_keys(box: Box, name: str, vip: str, address: str) -> None:
    """Slots that we write are what nft lists; slots that nft writes are what we read."""
    first, second = Element(slot(vip, 1), backend(address, 8080)), Element(slot(vip, 62), backend(address, 8081))
    box.socket.commit(sets.add_elements(inet(name), [first]))
    assert f"{vip} . 6 . 80 . 1 : {address} . 8080" in box.listed("map", name)
    box.nft(f"add element inet ll {name} {{ {vip} . tcp . 80 . 62 : {address} . 8081 }}")
    assert ordered(box.read(name)) == ordered([first, second])


def test_verdicts(box: Box) -> None:
    """Verdict maps go both ways, with and without a chain."""
    written = [
        Element(service("203.0.113.7", 6, 80), sets.goto("c")),
        Element(service("203.0.113.7", 17, 53), Verdict(VerdictCode.DROP)),
    ]
    box.socket.commit(sets.add_elements(inet("services"), written))
    listed = box.listed("map", "services")
    assert "203.0.113.7 . 6 . 80 : goto c" in listed
    assert "203.0.113.7 . 17 . 53 : drop" in listed
    box.nft("add element inet ll services { 203.0.113.8 . tcp . 443 : jump c, 203.0.113.8 . udp . 443 : return }")
    read = {element.key: element.data for element in box.read("services")}
    assert read == {element.key: element.data for element in written} | {
        service("203.0.113.8", 6, 443): Verdict(VerdictCode.JUMP, "c"),
        service("203.0.113.8", 17, 443): Verdict(VerdictCode.RETURN),
    }


def test_intervals(box: Box) -> None:
    """Networks as one field of a concatenated key go both ways."""

    def source(network: str) -> Element:
        head = keys.address_field(IPv4Address("203.0.113.7")) + keys.port_field(80)
        first, last = keys.range_fields(ip_network(network))
        return Element(head + first, key_end=head[:4] + keys.port_field(80) + last)

    box.socket.commit(sets.add_elements(inet("ranges"), [source("192.0.2.0/24")]))
    assert "203.0.113.7 . 80 . 192.0.2.0/24" in box.listed("set", "ranges")
    box.nft("add element inet ll ranges { 203.0.113.7 . 80 . 198.51.100.0/25 }")
    assert ordered(box.read("ranges")) == ordered([source("192.0.2.0/24"), source("198.51.100.0/25")])
    box.socket.commit(sets.delete_elements(inet("ranges"), [source("198.51.100.0/25")]))
    assert box.read("ranges") == [source("192.0.2.0/24")]


def test_counters(box: Box) -> None:
    """Counters that nft sets are read; an element without one of its own gets one from its map."""
    box.nft("add element inet ll counted { 203.0.113.7 counter packets 3 bytes 180 : goto c }")
    box.socket.commit(sets.add_elements(inet("counted"), [Element(IPv4Address("203.0.113.8").packed, sets.goto("c"))]))
    assert {element.key[3]: element.counter for element in box.read("counted")} == {7: (3, 180), 8: (0, 0)}
    carried = Element(IPv4Address("203.0.113.9").packed, sets.goto("c"), counter=(5, 320))
    box.socket.commit(sets.add_elements(inet("counted"), [carried]))
    assert "203.0.113.9 counter packets 5 bytes 320 : goto c" in box.listed("map", "counted")


def test_some_elements_are_read_by_themselves(box: Box) -> None:
    """With what they count; one that is not there is a refusal, and spoils nothing for the next list."""
    packed = [IPv4Address(f"203.0.113.{number}").packed for number in range(200)]
    elements = [Element(key, sets.goto("c"), counter=(key[3], 1)) for key in packed]
    box.socket.commit(sets.add_elements(inet("counted"), elements[:-1]))
    read = box.socket.get_elements(inet("counted"), elements[50:150])
    assert sorted(read, key=lambda element: element.key) == elements[50:150]
    with pytest.raises(KernelRefusal) as caught:
        box.socket.get_elements(inet("counted"), elements[-2:])
    assert caught.value.code == errno.ENOENT
    assert len(box.read("counted")) == 199
    box.nft("add element inet ll ranges { 203.0.113.7 . 80 . 198.51.100.0/25 }")
    (interval,) = box.read("ranges")
    assert box.socket.get_elements(inet("ranges"), [interval]) == [interval]


def test_elements_are_skimmed_while_others_change_them(box: Box) -> None:
    """All that stay are there, and no list is read twice."""
    elements = [Element((0x0A000000 + number).to_bytes(4), sets.goto("c"), counter=(0, 0)) for number in range(5000)]
    box.socket.commit(sets.add_elements(inet("counted"), elements))
    skimmed: list[Element] = []
    for number, part in enumerate(box.socket.skim_elements(inet("counted"))):
        skimmed += part
        fresh = [Element((0xC0000200 + number).to_bytes(4), sets.goto("c"))] if number < 10 else []
        box.socket.commit(sets.add_elements(inet("counted"), fresh))
    assert {element.key for element in skimmed} >= {element.key for element in elements}


def test_timeouts(box: Box) -> None:
    """An element that ends by itself says how long it lives and what is left of it."""
    box.socket.commit(sets.add_elements(inet("timed"), [Element(IPv4Address("203.0.113.7").packed, timeout=60_000)]))
    assert "203.0.113.7 timeout 60s expires" in box.listed("set", "timed")
    (read,) = box.read("timed")
    assert read.timeout == 60_000
    assert read.expires is not None
    assert 0 < read.expires <= 60_000


def test_a_change_is_one_transaction(box: Box) -> None:
    """An element is deleted and added again with another value at once; of a refused transaction nothing stays."""
    old, new = (Element(slot("203.0.113.7", 1), backend("10.1.0.5", port)) for port in (8080, 8081))
    box.socket.commit(sets.add_elements(inet("slots4"), [old]))
    box.socket.commit([*sets.delete_elements(inet("slots4"), [old]), *sets.add_elements(inet("slots4"), [new])])
    assert box.read("slots4") == [new]
    missing = sets.delete_elements(inet("slots4"), [Element(slot("203.0.113.7", 9))])
    with pytest.raises(KernelRefusal) as caught:
        box.socket.commit([sets.flush_elements(inet("slots4")), *missing])
    assert (caught.value.code, caught.value.index) == (errno.ENOENT, 1)
    assert box.read("slots4") == [new]


def test_eighty_thousand_elements(box: Box) -> None:
    """A large transaction is taken whole, and the list of it has every element once."""
    number = [keys.number_field(place) for place in range(16)]
    value = backend("10.1.0.5", 8080)
    heads = [service(f"203.0.113.{host}", 6, port) for host in range(5) for port in range(1, 1001)]
    wanted = [Element(head + field, value) for head in heads for field in number]
    requests = sets.add_elements(inet("slots4"), wanted)
    try:
        box.socket.commit(requests)
    except TooLarge:  # as root of a user namespace, see below
        for start in range(0, len(requests), 3):
            box.socket.commit(requests[start : start + 3])
    parts = list(box.socket.dump_elements(inet("slots4")))
    assert ordered(element for part in parts for element in part) == ordered(wanted)
    assert max(map(len, parts)) < 2_000
    assert parts.count([]) > 50
    box.socket.commit([sets.flush_elements(inet("slots4"))])
    assert box.read("slots4") == []


def test_a_list_given_up_spoils_nothing(box: Box) -> None:
    """Who stops in the middle of a list can list again at once, and two lists at a time do not mix."""
    wanted = [Element(slot("203.0.113.7", place), backend("10.1.0.5", place)) for place in range(3_000)]
    box.socket.commit(sets.add_elements(inet("slots4"), wanted))

    def inside() -> list[Element]:  # the second socket is opened in the namespace of the thread
        given_up = box.socket.dump_elements(inet("slots4"))
        assert next(given_up) == []
        listing = box.socket.dump_elements(inet("slots4"))
        assert next(listing) == []
        given_up.close()
        return [element for part in listing for element in part] + box.read("slots4")

    assert ordered(box.home.call(inside)) == ordered(wanted * 2)


def test_changes_meanwhile(box: Box) -> None:
    """A list during which somebody commits is read again, also when somebody always does whom we let."""
    elements = [Element(slot("203.0.113.7", place), backend("10.1.0.5", place)) for place in range(2_000)]
    box.socket.commit(sets.add_elements(inet("slots4"), elements))
    listing = box.socket.dump_elements(inet("slots4"))
    assert next(listing) == []
    box.socket.commit(sets.delete_elements(inet("slots4"), elements[:1]))
    assert len([element for part in listing for element in part]) == 1_999

    read = 0
    for part in box.socket.dump_elements(inet("slots4")):
        box.socket.commit([sets.flush_elements(inet("timed"))])  # half of the attempts give it no chance
        read += len(part)
    assert read == 1_999


@pytest.mark.parametrize(
    ("requests", "code", "index"),
    [
        (lambda: sets.add_elements(SetName(1, "ll", "nothing"), [Element(b"abcd")]), errno.ENOENT, 0),
        (lambda: sets.add_elements(SetName(1, "nothing", "timed"), [Element(b"abcd")]), errno.ENOENT, 0),
        (lambda: sets.add_elements(inet("timed"), [Element(b"abcd")], exclusive=True) * 2, errno.EEXIST, 1),
        (lambda: sets.add_elements(inet("services"), [Element(b"abcd" * 3, sets.goto("none"))]), errno.ENOENT, 0),
        (lambda: sets.add_elements(inet("timed"), [Element(b"abcdefgh")]), errno.EINVAL, 0),
    ],
    ids=["no set", "no table", "exclusive", "no chain", "wrong size"],
)
def test_refusals(box: Box, requests: Callable[[], list[Request]], code: int, index: int) -> None:
    """Each refusal has its errno and the request at fault."""
    with pytest.raises(KernelRefusal) as caught:
        box.socket.commit(requests())
    assert (caught.value.code, caught.value.index) == (code, index)
    assert isinstance(caught.value, Permanent if code == errno.EINVAL else Transient)


def test_threads_take_turns(box: Box) -> None:
    """Transactions and questions of several threads over one socket do not take each other's answers."""

    def work(first: int) -> None:
        for number in range(first, first + 200):
            box.socket.commit(sets.add_elements(inet("timed"), [Element(number.to_bytes(4))]))
            box.socket.generation()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(0, 800, 200)))
    assert len(box.read("timed")) == 800


def test_adding_again(box: Box) -> None:
    """An element that is there already with the same value is let be."""
    box.socket.commit(sets.add_elements(inet("timed"), [Element(b"abcd")]) * 2)
    assert box.read("timed") == [Element(b"abcd")]


def test_the_element_at_fault(box: Box) -> None:
    """Among a thousand elements of a refused request the one that is there already is found."""
    elements = [Element(slot("203.0.113.7", place), backend("10.1.0.5", 80)) for place in range(1_000)]
    there = Element(elements[617].key, backend("10.1.0.6", 80))
    box.socket.commit(sets.add_elements(inet("slots4"), [there]))
    requests = sets.add_elements(inet("slots4"), elements)
    with pytest.raises(KernelRefusal) as caught:
        box.socket.commit(requests)
    error = caught.value
    assert error.index is not None
    assert error.offset is not None
    assert element_at(requests[error.index], error.offset) == elements[617]


def test_generation(box: Box) -> None:
    """A transaction for a generation that has passed is refused as a whole."""
    before = box.socket.generation()
    box.nft("add element inet ll timed { 203.0.113.7 }")
    assert box.socket.generation() > before
    with pytest.raises(KernelRefusal) as caught:
        box.socket.commit([sets.flush_elements(inet("timed"))], generation=before)
    assert (caught.value.code, caught.value.index) == (errno.ERESTART, None)
    box.socket.commit([sets.flush_elements(inet("timed"))], generation=box.socket.generation())
    assert box.read("timed") == []


def test_tables_and_base_chains_of_others(box: Box) -> None:
    """A forward chain that drops is seen as Docker and firewalld make it."""
    box.nft(
        "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }\n chain DOCKER { }\n}"
    )
    box.nft("table netdev n { chain i { type filter hook ingress device lo priority 0; policy accept; }\n}")
    box.nft("table inet firewalld { chain f { type filter hook forward priority filter + 10; policy accept; }\n}")
    assert set(box.socket.tables()) == {Table(1, "ll"), Table(2, "filter"), Table(1, "firewalld"), Table(5, "n")}
    assert box.socket.tables(wire.NFPROTO_IPV4) == [Table(2, "filter")]
    assert set(box.socket.chains()) == {
        BaseChain(2, "filter", "FORWARD", "filter", "forward", 0, "drop"),
        BaseChain(5, "n", "i", "filter", "ingress", 0, "accept"),
        BaseChain(1, "firewalld", "f", "filter", "forward", 10, "accept"),
    }


ASK = """
import json, sys
from littlelb.core.errors import WorldError
from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.batch import Kind, Request
from littlelb.dataplane.netfilter.socket import NfSocket
nf = NfSocket()
said = []
for size in map(int, sys.argv[1:]):
    try:
        nf.commit([Request(Kind.NEWTABLE, 1, wire.text(1, "big"), wire.NLM_F_CREATE)] * size)
        said.append("done")
    except WorldError as error:
        said.append(f"{type(error).__name__}: {error}")
print(json.dumps(said))
"""


def ask_elsewhere(home: Namespace, options: list[str], *sizes: int) -> list[str]:
    """Commit transactions of so many requests inside another user namespace; return what came of each."""
    program = [sys.executable, "-c", ASK, *map(str, sizes)]
    done = home.run(["unshare", "--user", "--map-root-user", *options, *program], env={"PYTHONPATH": "src"})
    said: list[str] = json.loads(done.stdout)
    return said


def test_no_permission(box: Box) -> None:
    """Without rights in the network namespace the remedy is named."""
    (said,) = ask_elsewhere(box.home, [], 1)
    assert said.startswith("RefusedForGood: nf_tables refused: EPERM")
    assert "CAP_NET_ADMIN" in said


def test_no_permission_for_large_buffers(box: Box) -> None:
    """Root of a user namespace commits what fits into the buffers that the system allows; more names the limit."""
    limit = int(Path("/proc/sys/net/core/wmem_max").read_text()) * 2  # the kernel doubles what it is asked for
    requests = limit // 28 + 1
    small, large = ask_elsewhere(box.home, ["--net"], 1_000, requests)
    assert small == "done"
    assert large.startswith(f"TooLarge: a transaction of {28 * requests + 40} bytes does not fit")
    assert "net.core.wmem_max" in large


def test_two_families_of_addresses_do_not_mix(box: Box) -> None:
    """An IPv6 key in a map of IPv4 keys is refused, for its length is wrong."""
    wrong = Element(IPv6Address("2001:db8::1").packed + b"\0" * 12, backend("10.1.0.5", 80))
    with pytest.raises(KernelRefusal) as caught:
        box.socket.commit(sets.add_elements(inet("slots4"), [wrong]))
    assert caught.value.code == errno.EINVAL


def test_unknown_request(box: Box) -> None:
    """A request that no kernel knows is refused for good."""
    with pytest.raises(KernelRefusal) as caught:
        box.socket.commit([Request(Kind.GETGEN, 1, b"")])
    assert isinstance(caught.value, Permanent)
