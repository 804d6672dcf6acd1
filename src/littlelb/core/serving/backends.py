"""Who serves a frontend: pods, or nodes by their NodePort; `--backends`, the place and the NodePort decide."""

from littlelb.core.model import EndpointSlice, ServicePort
from littlelb.core.reasons import Notice, Reason
from littlelb.core.serving.choice import Choice, Wanted
from littlelb.core.serving.nodes import choose_nodes
from littlelb.core.serving.pods import choose_pods
from littlelb.core.state import BackendsMode, World


def choose_backends(wanted: Wanted, world: World) -> Choice:
    """Decide for one port and one address family of one Service."""
    if wanted.last_port and world.settings.backends is BackendsMode.NODES:
        text = f"{wanted}: ranges are forwarded to pods only, and --backends is nodes"
        return Choice(refusal=Notice(Reason.INVALID_PORT, text))
    if _uses_nodes(wanted.port, wanted.slices, world):
        return choose_nodes(wanted, world)
    return choose_pods(wanted, world)


def _uses_nodes(port: ServicePort, slices: tuple[EndpointSlice, ...], world: World) -> bool:
    """Node address and NodePort, or pods? Never a zero port."""
    settings = world.settings
    if settings.backends is BackendsMode.PODS or (settings.backends is BackendsMode.AUTO and settings.in_cluster):
        return False
    if settings.backends is BackendsMode.AUTO and settings.stand_alone:
        return not slices and port.node_port > 0
    return port.node_port > 0
