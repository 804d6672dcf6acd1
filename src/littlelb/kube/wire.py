"""The API's own shapes (core/v1, discovery/v1), cut down to what we read.

Fields that are not named here are skipped by the decoder without making objects: managedFields, images, volumes. Every
field may be missing or null, because Go writes empty lists as null and old servers leave out what is new.
"""

from typing import Annotated

from msgspec import Meta, Struct

from littlelb.core.model import Family, Protocol, ServiceType

Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
"""Ports are int32 in the API; a number of ten thousand digits is none."""

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
EXCLUDE_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
DELETION_TAINT = "ToBeDeletedByClusterAutoscaler"
OUR_PREFIX = "littlelb.io/"
PORTS_ERROR_CONDITION = "LoadBalancerPortsError"
ANNOTATIONS_OF_PEERS = frozenset(
    {
        "service.beta.kubernetes.io/load-balancer-source-ranges",
        "kube-vip.io/loadbalancerIPs",
        "lbipam.cilium.io/ips",
        "lbipam.cilium.io/sharing-key",
        "io.cilium/lb-ipam-ips",
        "io.cilium/lb-ipam-sharing-key",
        "purelb.io/addresses",
        "purelb.io/service-group",
        "purelb.io/allow-shared-ip",
        *(
            f"{prefix}/{name}"
            for prefix in ("metallb.io", "metallb.universe.tf")
            for name in ("loadBalancerIPs", "address-pool", "allow-shared-ip")
        ),
    }
)


class WireMeta(Struct, gc=False, rename="camel"):
    """meta/v1 ObjectMeta."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None


class WirePort(Struct, gc=False, rename="camel"):
    """core/v1 ServicePort; the target port is not read, because EndpointSlices and nodePorts resolve it."""

    port: Int32
    protocol: Protocol | None = None
    name: str | None = None
    node_port: Int32 | None = None


class WireClientIp(Struct, gc=False, rename="camel"):
    """core/v1 ClientIPConfig."""

    timeout_seconds: Int32 | None = None


class WireAffinity(Struct, gc=False):
    """core/v1 SessionAffinityConfig."""

    clientIP: WireClientIp | None = None  # noqa: N815


class WireServiceSpec(Struct, gc=False):
    """core/v1 ServiceSpec, with the API's spelling (`clusterIPs`, `externalIPs` do not follow camel case)."""

    type: ServiceType | None = None
    ports: list[WirePort] | None = None
    clusterIP: str | None = None  # noqa: N815
    clusterIPs: list[str] | None = None  # noqa: N815
    externalIPs: list[str] | None = None  # noqa: N815
    ipFamilies: list[Family] | None = None  # noqa: N815
    loadBalancerClass: str | None = None  # noqa: N815
    loadBalancerIP: str | None = None  # noqa: N815
    loadBalancerSourceRanges: list[str] | None = None  # noqa: N815
    sessionAffinity: str | None = None  # noqa: N815
    sessionAffinityConfig: WireAffinity | None = None  # noqa: N815
    externalTrafficPolicy: str | None = None  # noqa: N815
    healthCheckNodePort: Int32 | None = None  # noqa: N815
    publishNotReadyAddresses: bool | None = None  # noqa: N815


class WirePortStatus(Struct, gc=False):
    """core/v1 PortStatus."""

    port: Int32
    protocol: Protocol | None = None
    error: str | None = None


class WireIngress(Struct, gc=False):
    """core/v1 LoadBalancerIngress."""

    ip: str | None = None
    hostname: str | None = None
    ipMode: str | None = None  # noqa: N815
    ports: list[WirePortStatus] | None = None


class WireLoadBalancer(Struct, gc=False):
    """core/v1 LoadBalancerStatus."""

    ingress: list[WireIngress] | None = None


class WireCondition(Struct, gc=False):
    """meta/v1 Condition, and core/v1 NodeCondition."""

    type: str
    status: str | None = None
    reason: str | None = None
    message: str | None = None


class WireServiceStatus(Struct, gc=False, rename="camel"):
    """core/v1 ServiceStatus."""

    load_balancer: WireLoadBalancer | None = None
    conditions: list[WireCondition] | None = None


class WireService(Struct, gc=False):
    """core/v1 Service."""

    metadata: WireMeta | None = None
    spec: WireServiceSpec | None = None
    status: WireServiceStatus | None = None


class WireEndpointConditions(Struct, gc=False):
    """discovery/v1 EndpointConditions; null means unknown."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class WireEndpoint(Struct, gc=False, rename="camel"):
    """discovery/v1 Endpoint."""

    addresses: list[str] | None = None
    conditions: WireEndpointConditions | None = None
    node_name: str | None = None


class WireEndpointPort(Struct, gc=False):
    """discovery/v1 EndpointPort."""

    name: str | None = None
    protocol: Protocol | None = None
    port: Int32 | None = None


class WireSlice(Struct, gc=False, rename="camel"):
    """discovery/v1 EndpointSlice."""

    metadata: WireMeta | None = None
    address_type: str | None = None
    ports: list[WireEndpointPort] | None = None
    endpoints: list[WireEndpoint] | None = None


class WireTaint(Struct, gc=False):
    """core/v1 Taint."""

    key: str | None = None


class WireNodeSpec(Struct, gc=False):
    """core/v1 NodeSpec."""

    podCIDR: str | None = None  # noqa: N815
    podCIDRs: list[str] | None = None  # noqa: N815
    taints: list[WireTaint] | None = None


class WireNodeAddress(Struct, gc=False):
    """core/v1 NodeAddress."""

    type: str | None = None
    address: str | None = None


class WireNodeStatus(Struct, gc=False):
    """core/v1 NodeStatus."""

    addresses: list[WireNodeAddress] | None = None
    conditions: list[WireCondition] | None = None


class WireNode(Struct, gc=False):
    """core/v1 Node."""

    metadata: WireMeta | None = None
    spec: WireNodeSpec | None = None
    status: WireNodeStatus | None = None
