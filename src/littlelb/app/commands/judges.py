"""Judges of `check`: what was read about this machine and the cluster → findings, each with its remedy. Pure.

A finding is an ERROR where `run` cannot do its work, a WARN where some of it may not arrive, and OK otherwise: what was
looked at is named even where it is well, so that nobody takes silence for an answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from littlelb.core.model import Family, HostFacts, Plane
from littlelb.core.serving.planes import order_planes
from littlelb.core.shown.findings import Finding, Level
from littlelb.dataplane.nft.ruleset import TABLE
from littlelb.host.forwarding.switch import ForwardingFinding

CAPABILITIES: Mapping[str, tuple[int, Level, str]] = {
    "CAP_NET_ADMIN": (12, Level.ERROR, "no address can be put on a device"),
    "CAP_NET_BIND_SERVICE": (10, Level.ERROR, "no port below 1024 can be served"),
    "CAP_NET_RAW": (13, Level.WARN, "the LAN is neither asked whether an address is free nor told that it is here"),
}
"""Name → its bit (linux/capability.h), how much its lack matters, and what then happens."""
FEW_DESCRIPTORS = 65_536
"""A connection through the pipe takes two descriptors, and up to four more while much is under way."""
TOO_FEW_DESCRIPTORS = 1024
OLDEST_KERNEL = (4, 18)
"""IFA_RT_PRIORITY, by which addresses are marked where there is no IFA_PROTO yet."""
EFFECTS: Mapping[str, tuple[str, str]] = {
    "forward": (
        "only what one of its rules accepts goes on to the backends of the kernel plane",
        "accept there what is translated for us: `ct status dnat accept`",
    ),
    "input": (
        "only what one of its rules accepts reaches Services on the pipe plane",
        "accept the Services' addresses and ports there",
    ),
    "output": (
        "only what one of its rules accepts leaves for the backends of the pipe plane",
        "accept the backends' addresses and ports there",
    ),
}
"""Hook → what its policy drop does to us, and what helps."""
_OWNERS: Mapping[str, str] = {
    "firewalld": " (firewalld's: `firewall-cmd` changes it)",
    "FORWARD": " (iptables', Docker's perhaps: the chain DOCKER-USER is for rules of yours)",
}
FULL_SHARE = 0.8
"""From so full a table on a burst may fill it."""
PROTO_KERNEL = (5, 18)
"""IFA_PROTO, by which addresses are marked."""


def judge_capabilities(effective: int) -> list[Finding]:
    """Judge CapEff, as a bit set (capabilities(7))."""
    missing = [(name, *judged) for name, judged in CAPABILITIES.items() if not effective >> judged[0] & 1]
    if not missing:
        return [_well("capabilities", ", ".join(CAPABILITIES))]
    remedy = "run as root, or grant it: setcap, AmbientCapabilities= in the systemd unit, or the pod's securityContext"
    return [
        Finding(level=level, subject="capabilities", message=f"{name} is missing: {effect}", remedy=remedy)
        for name, _, level, effect in missing
    ]


def judge_device(host: HostFacts) -> list[Finding]:
    """Judge the link device: there, up, with an address of its own."""
    subject = f"device {host.device}"
    if not host.present:
        remedy = "name another device with --linkdevice, or make it; `ip link` lists those that exist"
        return [Finding(level=Level.ERROR, subject=subject, message="does not exist", remedy=remedy)]
    found = []
    if not host.up:
        message = "is down or has no carrier: nobody reaches its addresses"
        found.append(
            Finding(level=Level.ERROR, subject=subject, message=message, remedy=f"ip link set {host.device} up")
        )
    if not host.own:
        message = "has no address of its own: Services that ask for none cannot be served"
        remedy = "give the device an address, or let every Service ask for one"
        found.append(Finding(level=Level.WARN, subject=subject, message=message, remedy=remedy))
    return found or [_well(subject, f"up; default address {host.own[0]}")]


def judge_kernel(release: str) -> list[Finding]:
    """Judge `uname -r`."""
    words = [word for word in release.replace("-", ".").split(".") if word.isdecimal()]
    version = (int(words[0]), int(words[1])) if len(words) > 1 else (0, 0)
    subject = f"kernel {release}"
    if version < OLDEST_KERNEL:
        message = "cannot mark addresses as ours: what a crash leaves behind would not be found again"
        return [Finding(level=Level.ERROR, subject=subject, message=message, remedy="use kernel 4.18 or later")]
    if version < PROTO_KERNEL:
        return [_well(subject, "marks addresses by their metric (IFA_PROTO came with 5.18)")]
    return [_well(subject, "marks addresses by their protocol")]


def judge_descriptors(hard_limit: int) -> list[Finding]:
    """Judge the hard limit of RLIMIT_NOFILE, which workers raise theirs to; -1: none."""
    subject = "open files (RLIMIT_NOFILE)"
    if hard_limit in range(FEW_DESCRIPTORS):
        level = Level.ERROR if hard_limit < TOO_FEW_DESCRIPTORS else Level.WARN
        message = f"at most {hard_limit}: a worker holds about {hard_limit // 2} connections, then accepting pauses"
        remedy = (
            "raise the hard limit: LimitNOFILE= in the systemd unit, `ulimit -Hn`, or the container runtime's setting"
        )
        return [Finding(level=level, subject=subject, message=message, remedy=remedy)]
    return [_well(subject, "no limit" if hard_limit < 0 else str(hard_limit))]


def judge_folder(flag: str, path: str, *, writable: bool) -> list[Finding]:
    """Judge a folder that `run` makes or writes into."""
    if writable:
        return [_well(f"{flag} {path}", "writable")]
    effect = {"--run-dir": "workers and `status` need it", "--state-dir": "a restart would not know what it served"}
    message = f"cannot be written to: {effect[flag]}"
    level = Level.ERROR if flag == "--run-dir" else Level.WARN
    remedy = f"run as root, or choose another folder with {flag}"
    return [Finding(level=level, subject=f"{flag} {path}", message=message, remedy=remedy)]


def judge_holder(holder: str) -> list[Finding]:
    """Say whether a daemon runs in this network namespace; `holder`: ` (pid 812, since 10:02:11)` or empty."""
    if not holder:
        return [_well("daemon", "none runs in this network namespace")]
    return [_well("daemon", f"one runs in this network namespace{holder}")]


def judge_planes(asked: str, no_nft: str) -> list[Finding]:
    """Judge which plane carries the Services; `no_nft`: why the kernel cannot, or nothing."""
    planes, reason = order_planes(asked, no_nft)
    subject = f"--plane {asked}"
    if not reason or asked == Plane.PIPE:
        return [_well(subject, f"{planes[0]} carries what asks for nothing else")]
    level = Level.ERROR if asked == Plane.NFT else Level.WARN
    message = f"the kernel plane does not work here: {reason}"
    remedy = "do what it says; until then worker processes carry TCP, and UDP and ranges of ports are refused"
    return [Finding(level=level, subject=subject, message=message, remedy=remedy)]


def judge_chains(ruleset: Mapping[str, Any], *, pipe_only: bool = False) -> list[Finding]:
    """Judge what `nft -j list chains` says: base chains that drop what no rule of theirs accepts.

    The kernel plane's packets are forwarded. Traffic through the pipe is local: it enters by input and leaves by
    output. No verdict of ours saves a packet from a later chain that drops it.
    """
    found = []
    for entry in ruleset.get("nftables", ()):
        chain = entry.get("chain") or {}
        if chain.get("policy") != "drop" or chain.get("hook") not in EFFECTS or chain.get("table") == TABLE:
            continue
        if pipe_only and chain["hook"] == "forward":
            continue
        effect, remedy = EFFECTS[chain["hook"]]
        name = f"{chain['family']} {chain['table']} {chain['name']}"
        owner = _OWNERS.get(chain["table"], "") or _OWNERS.get(chain["name"], "")
        found.append(
            Finding(
                level=Level.WARN,
                subject=f"firewall, chain {name}",
                message=f"hook {chain['hook']}, priority {chain.get('prio', '?')}, policy drop{owner}: {effect}",
                remedy=f"{remedy}; `nft list chain {name}` shows what is accepted",
            )
        )
    return found or [_well("firewall (nft)", "no chain drops what no rule accepts")]


def judge_tracking(flows: int | None, limit: int | None, *, counted: bool | None) -> list[Finding]:
    """Judge the connection tracking table of the kernel plane: None where it cannot be read, as before its first use.

    `counted`: nf_conntrack_acct, by which packets and bytes are counted.
    """
    subject = "connection tracking"
    if flows is None or limit is None:
        return [_well(subject, "not in use yet: the kernel loads it with the first rule that needs it")]
    how = "" if counted is None else f"; packets and bytes are {'' if counted else 'not '}counted (nf_conntrack_acct)"
    message = f"{flows} of {limit} entries{how}"
    if flows < FULL_SHARE * limit:
        return [_well(subject, message)]
    effect = "when it is full, new connections of everybody on this machine are dropped"
    remedy = f"sysctl -w net.netfilter.nf_conntrack_max={2 * limit}, outside of any container"
    return [Finding(level=Level.WARN, subject=subject, message=f"{message}: {effect}", remedy=remedy)]


def judge_forwarding(host: HostFacts, findings: Iterable[ForwardingFinding]) -> list[Finding]:
    """Judge whether the kernel forwards what enters by the link device; `run` switches on what is that device's."""
    found = []
    for one in findings:
        subject = f"forwarding of {one.family} ({one.device})"
        if one.forwards:
            found.append(_well(subject, one.message or "on"))
        elif one.family is Family.IPV4 or one.remedy.endswith("force_forwarding=1"):
            found.append(_well(subject, "off; a run switches it on, and cleanup back"))
        elif any(address.version == 6 for address in host.own):
            message = f"{one.message}: IPv6 Services on the kernel plane are not reached"
            found.append(Finding(level=Level.WARN, subject=subject, message=message, remedy=one.remedy))
    return found


def judge_reverse_path(device: str, values: Mapping[str, str | None]) -> list[Finding]:
    """Judge rp_filter of the device and of `all` (the larger one counts): 1 drops what would be answered elsewhere."""
    numbers = {key: int(value) for key, value in values.items() if value is not None}
    if max(numbers.values(), default=0) != 1:
        return []
    message = f"rp_filter is strict on {device}: clients to whom another device leads are dropped unseen"
    remedy = f"if clients come that way: sysctl -w net.ipv4.conf.{device}.rp_filter=2"
    return [Finding(level=Level.WARN, subject="rp_filter", message=message, remedy=remedy)]


def judge_unseen_firewall(reason: str) -> list[Finding]:
    """Say that nft rules could not be looked at."""
    remedy = "install nftables and run this as root; or look yourself: `iptables -S`"
    return [Finding(level=Level.WARN, subject="firewall (nft)", message=f"not looked at: {reason}", remedy=remedy)]


def judge_legacy_tables(tables: str) -> list[Finding]:
    """Judge /proc/net/ip_tables_names: tables of the older iptables, which nft does not show."""
    if "filter" not in tables.split():
        return []
    message = "the older iptables has a filter table, which nft does not show"
    remedy = "look whether its chains drop: `iptables-legacy -S`, INPUT and FORWARD; moving it to nft ends the doubt"
    return [Finding(level=Level.WARN, subject="firewall (iptables-legacy)", message=message, remedy=remedy)]


def judge_source_errors(folder: str, errors: Sequence[str]) -> list[Finding]:
    """Give a finding for each thing that is wrong in the folder of manifests."""
    if not errors:
        return [_well(f"folder {folder}", "every document was understood")]
    remedy = "correct it; until then what this file said before stays in force"
    return [Finding(level=Level.ERROR, subject=f"folder {folder}", message=error, remedy=remedy) for error in errors]


@dataclass(frozen=True, slots=True)
class Right:
    """One thing that the daemon must be allowed to do with a resource of the API."""

    verb: str
    group: str
    resource: str
    subresource: str = ""

    def __str__(self) -> str:
        """`patch services/status`, `list endpointslices.discovery.k8s.io`."""
        name = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {'/'.join(part for part in (name, self.subresource) if part)}"


RIGHTS = (
    Right("get", "", "services"),
    Right("list", "", "services"),
    Right("watch", "", "services"),
    Right("patch", "", "services", "status"),
    Right("list", "discovery.k8s.io", "endpointslices"),
    Right("watch", "discovery.k8s.io", "endpointslices"),
    Right("list", "", "nodes"),
    Right("watch", "", "nodes"),
    Right("create", "events.k8s.io", "events"),
    Right("patch", "events.k8s.io", "events"),
)
"""The role of deploy/manifests."""
EXTERNAL_IPS_RIGHT = Right("patch", "", "services")


def judge_rights(allowed: Mapping[Right, bool]) -> list[Finding]:
    """Judge what the API server answered for each right."""
    missing = [right for right, may in allowed.items() if not may]
    if not missing:
        return [_well("API rights", f"all {len(allowed)} are granted")]
    remedy = "apply deploy/manifests/rbac.yaml, and bind the role to this account"
    overlay = "apply the overlay for --external-ips, or run without it"
    return [
        Finding(
            level=Level.ERROR,
            subject="API rights",
            message=f"not permitted: {right}",
            remedy=overlay if right == EXTERNAL_IPS_RIGHT else remedy,
        )
        for right in missing
    ]


def judge_others(writers: Mapping[str, Iterable[str]], *, class_less: bool) -> list[Finding]:
    """Name other balancers: manager → Services without a class whose status it wrote."""
    found = []
    for manager, keys in sorted(writers.items()):
        names = sorted(keys)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        message = f"{manager} also serves Services without a loadBalancerClass: {', '.join(names[:3])}{more}"
        remedy = "run with --no-class-less, or give each Service the loadBalancerClass of one of the two"
        level = Level.WARN if class_less else Level.OK
        found.append(
            Finding(level=level, subject="other balancers", message=message, remedy=remedy if class_less else "")
        )
    return found or [_well("other balancers", "none has written the status of a Service without a class")]


def judge_nodes(selector: str, total: int, usable: int) -> list[Finding]:
    """Judge which nodes may serve."""
    subject = f"nodes ({selector})" if selector else "nodes"
    if usable:
        return [_well(subject, f"{usable} of {total} may serve")]
    message = f"none of the {total} nodes may serve" if total else "there are none"
    if not total and not selector:
        return [_well(subject, message)]
    remedy = "see why: `kubectl get nodes --show-labels`, `kubectl describe node NAME`; or correct --node-selector"
    return [Finding(level=Level.WARN, subject=subject, message=message, remedy=remedy)]


def _well(subject: str, message: str) -> Finding:
    return Finding(level=Level.OK, subject=subject, message=message)
