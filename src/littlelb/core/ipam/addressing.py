"""Which addresses of a link device may be given out at all, and which is the default one."""

from ipaddress import IPv4Address

from littlelb.core.ipam.cluster import ClusterAddresses
from littlelb.core.ipam.requests import family_of
from littlelb.core.model import Family, HostFacts, Ip, Net
from littlelb.core.reasons import Notice, Reason, Refusal
from littlelb.core.state import OffSubnet, PrefixMode, Settings, Snapshot


def default_address(host: HostFacts, family: Family) -> Ip | None:
    """Find the device's first own global address of a family."""
    return next((address for address in host.own if family_of(address) is family), None)


def prefix_length(address: Ip, host: HostFacts, settings: Settings) -> int:
    """Length with which an address of ours sits on the device (docs/decisions/0003 says why the host prefix)."""
    if settings.prefix is PrefixMode.LINK:
        nets = [net.prefixlen for net in host.on_link if net.version == address.version and address in net]
        if nets:
            return max(nets)
    return address.max_prefixlen


def judge_address(address: Ip, cluster: ClusterAddresses, snapshot: Snapshot) -> Refusal | None:
    """Refuse what no Service may have: special addresses, other machines', this machine's other ones."""
    why = _special(address) or _of_the_lan(address, snapshot.host)
    if not why and address not in snapshot.host.own:
        why = "the API server's" if address in snapshot.host.api_servers else cluster.owner(address)
    if why:
        return Refusal(Reason.FORBIDDEN_ADDRESS, f"address {address} is {why}; ask for another one")
    if address in snapshot.conflicts and address not in snapshot.host.own:
        return Refusal(Reason.ADDRESS_CONFLICT, snapshot.conflicts[address])
    settings = snapshot.settings
    refused = next((net for net in settings.refused_networks if _inside(address, net)), None)
    if refused is not None:
        return Refusal(Reason.FORBIDDEN_ADDRESS, f"address {address} is in {refused}, which refuse-addresses forbids")
    if settings.off_subnet is OffSubnet.REFUSE and _off_subnet(address, snapshot.host):
        return Refusal(Reason.OUT_OF_SUBNET, f"{_off_subnet_text(address, snapshot.host)} (off-subnet=refuse)")
    return None


def notices_for(address: Ip, snapshot: Snapshot) -> tuple[Notice, ...]:
    """Warn of an address that the LAN cannot find by itself."""
    if not _off_subnet(address, snapshot.host):
        return ()
    text = f"{_off_subnet_text(address, snapshot.host)}: the LAN must route it to this machine"
    return (Notice(Reason.OUT_OF_SUBNET, text),)


def _inside(address: Ip, net: Net) -> bool:
    """Is the address in the network? False for the other family."""
    return address.version == net.version and address in net


def _off_subnet(address: Ip, host: HostFacts) -> bool:
    """Is it outside of everything that the device reaches on its own link? While it is down or missing, who knows."""
    return host.up and address not in host.own and not any(_inside(address, net) for net in host.on_link)


def _off_subnet_text(address: Ip, host: HostFacts) -> str:
    """Name the address and the networks it is not in."""
    nets = ", ".join(str(net) for net in host.on_link if net.version == address.version)
    family = family_of(address)
    return (
        f"address {address} is in none of device {host.device}'s {family} subnets ({nets or f'it has no {family} one'})"
    )


def _special(address: Ip) -> str:
    """Name the special purpose of an address (RFC 6890, RFC 4291), or nothing."""
    if address.version == 4 and 1 <= int(address) >> 24 <= 223 and not (address.is_loopback or address.is_link_local):
        return ""  # nearly all of them: the list below takes ten times as long
    kinds = (
        (address.is_unspecified, "unspecified"),
        (address.is_loopback, "a loopback address"),
        (address.is_multicast, "a multicast address"),
        (address.is_link_local, "link-local"),
        (address == IPv4Address("255.255.255.255"), "the broadcast address"),
        (address.version == 4 and int(address) >> 24 == 0, 'in "this network" 0.0.0.0/8'),
        (address.version == 4 and address.is_reserved, "in the reserved block 240.0.0.0/4"),
        (address.version == 6 and address.is_site_local, "site-local, which is deprecated"),
    )
    return next((text for matches, text in kinds if matches), "")


def _of_the_lan(address: Ip, host: HostFacts) -> str:
    """Name the part that an address already plays on the link or on this machine, or nothing."""
    if address in host.gateways:
        return "the gateway's"
    if address in host.elsewhere:
        return f"already on device {host.elsewhere[address]} of this machine"
    for net in host.on_link:
        if net.version == 4 and net.prefixlen < 31 and address in (net.network_address, net.broadcast_address):
            return f"the network or broadcast address of {net}"
    return ""
