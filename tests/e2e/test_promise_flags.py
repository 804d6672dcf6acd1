"""Every flag and environment variable of `run`, in every spelling, is taken by the real daemon and has its effect."""

import signal

import pytest

from littlelb.goflags import OPTIONS
from tests.controlplane.admin import Object
from tests.e2e.rig import LOADBALANCER, Rig, fetch

pytestmark = pytest.mark.e2e

VIP = "203.0.113.10"
NOT_WITH_A_CLUSTER = {"manifests"}
CLASS = "example.org/ours"
REFUSED = {"default": "NoDefaultAddress", "elsewhere": "OutOfSubnet", "forbidden": "ForbiddenAddress"}
SECOND_NODE: Object = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}}


def all_settings(rig: Rig) -> dict[str, str]:
    """Name a value for every setting, by its flag: none is the default where that can be seen from outside."""
    settings_file = rig.home / "settings.yaml"
    settings_file.write_text("refuse-addresses: [203.0.113.99/32]\n")
    return {
        "kubeconfig": str(rig.kubeconfig),
        "linkdevice": "eth0",
        "debug": "T",
        "kubernetes": "1",
        "prefix": "link",
        "on-exit": "keep",
        "config": str(settings_file),
        "plane": "pipe",
        "backends": "nodes",
        "node-selector": "role=worker",
        "load-balancer-class": CLASS,
        "class-less": "F",
        "default-address": "refuse",
        "external-ips": "FALSE",
        "listen": "127.0.0.1:7481",
        "state-dir": str(rig.home / "other-state"),
        "run-dir": str(rig.home / "other-run"),
        "max-nodes": "1",
        "off-subnet": "refuse",
        "refuse-addresses": "203.0.113.98/32",
        "source-address": "masquerade",
        "routed-networks": "10.1.0.0/16",
        "local-policy": "strict",
        "node-name": "n9",
        "accounting": "F",
        "pipe-workers": "1",
        "connect-timeout": "1.5",
        "log-format": "console",
    }


def spell(rig: Rig, form: str) -> tuple[list[str], dict[str, str]]:
    """Spell all settings as words and as environment."""
    booleans = {option.name for option in OPTIONS if option.boolean}
    variables = {option.name: option.environment for option in OPTIONS}
    words: list[str] = []
    environment: dict[str, str] = {}
    for name, value in all_settings(rig).items():
        if form == "environment":
            environment[variables[name]] = value
        elif form.endswith("=") or name in booleans:  # as in Go, a boolean never takes the next word
            words.append(f"{form.rstrip('=')}{name}={value}")
        else:
            words += [f"{form}{name}", value]
    return words, environment


def test_the_table_of_this_file_has_every_setting(rig: Rig) -> None:
    """A new flag has to be tried here too."""
    assert set(all_settings(rig)) | NOT_WITH_A_CLUSTER == {option.name for option in OPTIONS}


@pytest.mark.parametrize("form", ["--=", "--", "-", "-=", "environment"], ids=["--x=v", "--x v", "-x v", "-x=v", "X=v"])
def test_every_setting_is_taken_in_this_spelling(rig: Rig, form: str) -> None:
    """One daemon with all of them; for most, what it does shows that the value arrived."""
    rig.plane.admin.patch(SECOND_NODE, {"metadata": {"labels": {"role": "worker"}}})
    rig.apply("web", loadBalancerIP=VIP, loadBalancerClass=CLASS)
    rig.apply("classless", loadBalancerIP="203.0.113.11")
    rig.apply("default", loadBalancerClass=CLASS)
    rig.apply("elsewhere", loadBalancerIP="203.0.114.1", loadBalancerClass=CLASS)
    rig.apply("forbidden", loadBalancerIP="203.0.113.98", loadBalancerClass=CLASS)
    rig.serve_service("web", 1, 2)
    words, environment = spell(rig, form)
    rig.launch([str(LOADBALANCER), *words], environment)
    rig.wait("ready where --listen says", lambda: rig.lan.balancer.call(lambda: fetch("127.0.0.1", 7481, "/readyz")))
    rig.wait("published", lambda: rig.ingress("web") == [VIP])
    assert rig.answers(VIP) == {"n2"}, "--node-selector, --backends"
    assert f"{VIP}/24" in rig.lan.balancer.ip("addr", "show", "dev", "eth0"), "--prefix"
    for name, reason in REFUSED.items():
        rig.wait(f"{name} is refused", lambda n=name, r=reason: rig.condition(n).get("reason") == r)  # type: ignore[misc]
    assert rig.held() == {VIP}
    assert not rig.condition("classless"), "--class-less"
    log = rig.log.read_text()
    assert log.count("pipe.worker_started") == 1, "--pipe-workers"
    assert "[debug" in log, "--debug, --log-format"
    assert (rig.home / "other-run" / "littlelb.sock").exists(), "--run-dir"
    assert rig.stop() == 0
    assert rig.held() == {VIP}, "--on-exit"
    assert list((rig.home / "other-state").iterdir()), "--state-dir"


def test_a_settings_file_is_followed_while_the_daemon_runs(rig: Rig) -> None:
    """What it forbids is refused; once it is edited the Service is served; a broken edit changes nothing."""
    settings_file = rig.home / "settings.yaml"
    settings_file.write_text(f"refuse-addresses: [{VIP}/32]\n")
    rig.start("--config", str(settings_file))
    rig.apply("web", loadBalancerIP=VIP)
    rig.wait("refused", lambda: rig.condition("web").get("reason") == "ForbiddenAddress")
    settings_file.write_text("refuse-addresses: []\n")
    rig.wait("served", lambda: rig.ingress("web") == [VIP])
    settings_file.write_text("refuse-addresses: [nonsense]\n")
    rig.wait("complained", lambda: rig.log_events("config.refused"))
    assert rig.held() == {VIP}


def test_a_class_that_is_taken_out_of_the_settings_file_is_closed_without_a_restart(rig: Rig) -> None:
    """Address, status and finalizer go at once after SIGHUP, and come back with the class."""
    settings_file = rig.home / "settings.yaml"
    settings_file.write_text(f"load-balancer-class: {CLASS}\n")
    rig.start("--config", str(settings_file))
    rig.apply("web", loadBalancerIP=VIP, loadBalancerClass=CLASS)
    for name in (CLASS, "example.org/others", CLASS):
        settings_file.write_text(f"load-balancer-class: {name}\n")
        assert rig.daemon is not None
        rig.daemon.send_signal(signal.SIGHUP)
        expected = [VIP] if name == CLASS else []
        rig.wait(f"class {name}", lambda e=expected: rig.ingress("web") == e and rig.held() == set(e))  # type: ignore[misc]
        rig.wait("claimed or let go", lambda e=expected: bool(rig.get("web")["metadata"].get("finalizers")) == bool(e))  # type: ignore[misc]


def test_without_kubernetes_a_folder_takes_its_place(rig: Rig) -> None:
    """`-kubernetes=false -manifests DIR` serves what lies in the folder; no API server is asked."""
    folder = rig.home / "services"
    folder.mkdir()
    (folder / "web.yaml").write_text(
        "{apiVersion: v1, kind: Service, metadata: {name: web},"
        f" spec: {{type: LoadBalancer, loadBalancerIP: {VIP}, ports: [{{port: 80, nodePort: 30080}}]}}}}\n"
        "---\n"
        "{apiVersion: v1, kind: Node, metadata: {name: n1},"
        " status: {addresses: [{type: InternalIP, address: 198.51.100.11}]}}\n"
    )
    rig.serve(1, 30080)
    rig.launch([str(LOADBALANCER), "-linkdevice", "eth0", "-kubernetes=false", "-manifests", str(folder)])
    rig.wait("served", lambda: rig.ask(VIP) == "n1")


def test_all_wrong_settings_are_named_at_once(rig: Rig) -> None:
    """Exit code 2, one line for each error, and nothing on the device."""
    wrong = ["--prefix=wide", "--debug=yes", "--max-nodes=0", "--refuse-addresses=203.0.113.300"]
    done = rig.command("run", *wrong, check=False)
    assert done.returncode == 2
    for flag in wrong:
        name, _, value = flag.partition("=")
        assert any(name in line and value in line for line in done.stderr.splitlines()), flag
    assert rig.held() == set()
