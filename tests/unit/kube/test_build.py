"""What each API object becomes in the model."""

from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.ipam.requests import ADDRESS_ANNOTATIONS, KNOWN_ANNOTATIONS, POOL_ANNOTATIONS, RANGES_ANNOTATION
from littlelb.core.model import (
    Condition,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Family,
    Ingress,
    Node,
    PortError,
    Protocol,
    Service,
    ServicePort,
    ServiceType,
)
from littlelb.kube.build import build_node, build_service, build_slice, parse_ipv4, parse_ipv6
from littlelb.kube.wire import WireNode, WireService, WireSlice

WHOLE: dict[str, Any] = {
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "uid": "u1",
        "resourceVersion": "7",
        "creationTimestamp": "2026-11-23T18:00:00Z",
        "deletionTimestamp": "2026-11-23T19:00:00Z",
        "finalizers": ["a.example/b", "service.kubernetes.io/load-balancer-cleanup"],
        "annotations": {
            "littlelb.io/drain-seconds": "5",
            "metallb.universe.tf/loadBalancerIPs": "203.0.113.9",
            "service.beta.kubernetes.io/load-balancer-source-ranges": "192.0.2.0/24",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "kube-vip.io/ignore": "true",
        },
    },
    "spec": {
        "type": "LoadBalancer",
        "loadBalancerClass": "littlelb.io/littlelb",
        "loadBalancerIP": "203.0.113.7",
        "loadBalancerSourceRanges": [" 192.0.2.0/24 "],
        "ports": [{"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}, {"port": 80}],
        "clusterIP": "10.96.0.1",
        "clusterIPs": ["10.96.0.1", "2001:db8::1"],
        "externalIPs": ["203.0.113.8"],
        "ipFamilies": ["IPv4", "IPv6"],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32_000,
        "publishNotReadyAddresses": True,
    },
    "status": {
        "loadBalancer": {
            "ingress": [
                {
                    "ip": "203.0.113.7",
                    "ipMode": "VIP",
                    "ports": [{"port": 53, "protocol": "UDP", "error": "littlelb.io/ProtocolNotSupported"}],
                },
                {"hostname": "lb.example.com"},
            ]
        },
        "conditions": [
            {"type": "littlelb.io/Served", "status": "True", "reason": "Served", "message": "ok"},
            {"type": "LoadBalancerPortsError", "status": "True"},
            {"type": "example.com/Other", "status": "True"},
        ],
    },
}


def service(**spec: Any) -> Service:
    """Build a Service with this spec."""
    return build_service(msgspec.convert({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec}, WireService))


def slice_of(*endpoints: dict[str, Any], family: str | None = "IPv4") -> EndpointSlice:
    """Build a slice of the Service `web` with these endpoints."""
    meta = {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}}
    return build_slice(
        msgspec.convert({"metadata": meta, "addressType": family, "endpoints": list(endpoints)}, WireSlice)
    )


def node(labels: dict[str, str] | None = None, **parts: Any) -> Node:
    """Build a node with these parts."""
    return build_node(msgspec.convert({"metadata": {"name": "n1", "labels": labels}, **parts}, WireNode))


def test_a_whole_service_is_reduced_to_what_a_balancer_needs() -> None:
    """Every field of the model is read from its place in the API object."""
    assert build_service(msgspec.convert(WHOLE, WireService)) == Service(
        namespace="shop",
        name="web",
        uid="u1",
        resource_version="7",
        created=1795456800.0,
        deleting=True,
        type=ServiceType.LOAD_BALANCER,
        load_balancer_class="littlelb.io/littlelb",
        load_balancer_ip="203.0.113.7",
        annotations={
            "littlelb.io/drain-seconds": "5",
            "metallb.universe.tf/loadBalancerIPs": "203.0.113.9",
            "service.beta.kubernetes.io/load-balancer-source-ranges": "192.0.2.0/24",
        },
        ports=(ServicePort(53, Protocol.UDP, "dns", 30053), ServicePort(80)),
        cluster_ips=("10.96.0.1", "2001:db8::1"),
        source_ranges=(" 192.0.2.0/24 ",),
        affinity_seconds=600,
        external_traffic_policy_local=True,
        health_check_node_port=32_000,
        ip_families=(Family.IPV4, Family.IPV6),
        publish_not_ready_addresses=True,
        external_ips=("203.0.113.8",),
        has_finalizer=True,
        ingress=(
            Ingress("203.0.113.7", "", "VIP", (PortError(53, Protocol.UDP, "littlelb.io/ProtocolNotSupported"),)),
            Ingress(hostname="lb.example.com"),
        ),
        conditions=(
            Condition("littlelb.io/Served", "True", "Served", "ok"),
            Condition("LoadBalancerPortsError", "True", "", ""),
        ),
    )


@pytest.mark.parametrize(
    "name", [*ADDRESS_ANNOTATIONS, *POOL_ANNOTATIONS, *sorted(KNOWN_ANNOTATIONS), RANGES_ANNOTATION]
)
def test_every_annotation_that_the_core_reads_is_kept(name: str) -> None:
    """None is dropped on the way."""
    metadata = {"name": "web", "annotations": {name: "x", "example.com/other": "y"}}
    assert build_service(msgspec.convert({"metadata": metadata}, WireService)).annotations == {name: "x"}


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        ({"sessionAffinity": "None", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}, 0),
        ({"sessionAffinity": "ClientIP"}, 10_800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": None}}, 10_800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": None}}}, 10_800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86_401}}}, 86_401),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}, -1),
    ],
)
def test_affinity_has_a_timeout(spec: dict[str, Any], seconds: int) -> None:
    """Three hours where nothing is said; what no API server would take is kept for the core to judge."""
    assert service(**spec).affinity_seconds == seconds


def test_an_empty_service_has_the_defaults_of_the_api() -> None:
    """What is not said is what the API server would have filled in."""
    assert service() == Service(namespace="shop", name="web")


def test_a_service_without_a_name_has_a_fault_and_is_no_load_balancer() -> None:
    """Nothing can be written to an object that cannot be named."""
    found = build_service(msgspec.convert({"spec": {"type": "LoadBalancer"}}, WireService))
    assert found.fault
    assert found.type is ServiceType.CLUSTER_IP


def test_a_lone_cluster_ip_is_taken_from_the_old_field() -> None:
    """`clusterIP` counts where `clusterIPs` is not there."""
    assert service(clusterIP="10.96.0.1").cluster_ips == ("10.96.0.1",)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-23T18:00:00"])
def test_a_timestamp_that_is_none_counts_as_unknown(text: str) -> None:
    """Age is not guessed from a text without a zone or without a time."""
    whole = {"metadata": {"name": "web", "creationTimestamp": text}}
    assert build_service(msgspec.convert(whole, WireService)).created is None


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (None, (True, True, False)),
        ({"ready": None, "serving": None, "terminating": None}, (True, True, False)),
        ({"ready": False}, (False, False, False)),
        ({"ready": False, "serving": True, "terminating": True}, (False, True, True)),
        ({"ready": True, "serving": False}, (True, False, False)),
    ],
)
def test_null_conditions_are_resolved(conditions: dict[str, Any] | None, expected: tuple[bool, bool, bool]) -> None:
    """Null ready is true, null serving is as ready, null terminating is false."""
    (endpoint,) = slice_of({"addresses": ["10.1.0.1"], "conditions": conditions, "nodeName": "n1"}).endpoints
    assert endpoint == Endpoint(ip_address("10.1.0.1"), *expected, "n1")


def test_a_slice_belongs_to_the_service_of_its_label() -> None:
    """The label names the Service; ports keep null as «all ports»."""
    meta = {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}}
    ports = [{"name": "http", "port": 8080}, {"protocol": "UDP", "port": None}]
    found = build_slice(msgspec.convert({"metadata": meta, "addressType": "IPv6", "ports": ports}, WireSlice))
    assert (found.service_key, found.family) == ("shop/web", Family.IPV6)
    assert found.ports == (EndpointPort("http", Protocol.TCP, 8080), EndpointPort("", Protocol.UDP, None))


def test_only_the_first_address_of_an_endpoint_counts() -> None:
    """The API gives further addresses no meaning."""
    found = slice_of({"addresses": ["10.1.0.1", "10.1.0.2"]})
    assert [str(e.address) for e in found.endpoints] == ["10.1.0.1"]


def test_an_fqdn_slice_has_no_endpoints_and_no_fault() -> None:
    """A slice of host names is legal and never used."""
    found = slice_of({"addresses": ["pod.example.com"]}, family="FQDN")
    assert (found.family, found.endpoints, found.fault) == (None, (), "")


def test_an_unknown_address_type_is_a_fault() -> None:
    """What kind of addresses these are cannot be guessed."""
    found = slice_of({"addresses": ["10.1.0.1"]}, family=None)
    assert (found.family, found.endpoints) == (None, ())
    assert "addressType" in found.fault


@pytest.mark.parametrize(
    "text", ["010.1.0.1", "10.1.0.1/32", "2001:db8::1", "pod", "", "10.1.0.1\n", "\u0661\u0660.1.0.1"]
)
def test_an_endpoint_whose_address_is_none_is_left_out(text: str) -> None:
    """The bad one is named in the fault, its neighbours count."""
    found = slice_of({"addresses": [text]}, {"addresses": ["10.1.0.2"]}, {"addresses": []})
    assert [str(e.address) for e in found.endpoints] == ["10.1.0.2"]
    assert "endpoint address" in found.fault
    assert found.fault.isprintable()


@pytest.mark.parametrize("text", ["fe80::1%eth0", "::ffff:10.0.0.1", "10.0.0.1", "2001:db8:::1"])
def test_ipv6_is_parsed_strictly(text: str) -> None:
    """No zone and no v4-mapped form."""
    assert parse_ipv6(text) is None


def test_a_node_gives_its_internal_addresses_in_order() -> None:
    """InternalIPs of both families, nothing else."""
    addresses = [
        {"type": "Hostname", "address": "n1"},
        {"type": "InternalIP", "address": "2001:db8::5"},
        {"type": "ExternalIP", "address": "203.0.113.5"},
        {"type": "InternalIP", "address": "198.51.100.5"},
        {"type": "InternalIP", "address": "no address"},
    ]
    found = node(status={"addresses": addresses}, spec={"podCIDRs": ["10.1.5.0/24", "10.1.5.1/24"]})
    assert [str(address) for address in found.addresses] == ["2001:db8::5", "198.51.100.5"]
    assert found.pod_networks == (ip_network("10.1.5.0/24"),)


@pytest.mark.parametrize(("status", "ready"), [("True", True), ("False", False), ("Unknown", False)])
def test_the_ready_condition_is_followed(status: str, ready: bool) -> None:
    """Only the condition `Ready` says whether a node is."""
    conditions = [{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": status}]
    assert node(status={"conditions": conditions}).ready is ready


def test_a_node_without_a_ready_condition_is_ready() -> None:
    """A node from a folder says nothing about itself."""
    assert node().ready


@pytest.mark.parametrize(
    ("value", "leaving"),
    [("false", False), ("0", False), ("F", False), ("true", True), ("", True), ("no", True), ("FALSe", True)],
)
def test_the_exclude_label_is_a_boolean(value: str, leaving: bool) -> None:
    """False keeps the node; empty or unreadable excludes it."""
    assert node({"node.kubernetes.io/exclude-from-external-load-balancers": value}).leaving is leaving


def test_weights_are_taken_as_they_are_written() -> None:
    """From the annotations of a slice and of a node."""
    meta = {"name": "x", "annotations": {"littlelb.io/weight": "a lot"}}
    assert build_slice(msgspec.convert({"metadata": meta, "addressType": "IPv4"}, WireSlice)).weight == "a lot"
    assert build_node(msgspec.convert({"metadata": meta}, WireNode)).weight == "a lot"
    assert (slice_of().weight, node().weight) == ("", "")


@pytest.mark.parametrize(
    ("parts", "leaving"),
    [
        ({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "PreferNoSchedule"}]}}, True),
        ({"spec": {"taints": [{"key": "node.kubernetes.io/unschedulable"}]}}, False),
        ({"metadata": {"name": "n1", "deletionTimestamp": "2026-11-23T18:00:00Z"}}, True),
    ],
)
def test_a_node_that_goes_is_leaving(parts: dict[str, Any], leaving: bool) -> None:
    """The autoscaler's taint of any effect and a deletion count, a cordon does not."""
    assert node(**parts).leaving is leaving


@given(st.ip_addresses(v=4).map(str) | st.text("0123456789.-+ x\u0661", max_size=16) | st.text(max_size=16))
def test_ipv4_addresses_are_read_as_the_library_reads_them(text: str) -> None:
    """Faster, and not a text more or less."""
    try:
        expected = IPv4Address(text)
    except ValueError:
        assert parse_ipv4(text) is None
    else:
        assert parse_ipv4(text) == expected


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.256", "1.2.3.4/32", "+1.2.3.4", "1..3.4"]
)
def test_what_is_nearly_an_ipv4_address_is_none(text: str) -> None:
    """No leading zeros (CVE-2021-29923), no signs, no prefix."""
    assert parse_ipv4(text) is None
