"""pytest fixtures for the real control plane; conftests load this module with `config.pluginmanager.import_plugin`.

    controlplane        ControlPlane, one for the session; what a test broke is healed after it
    cluster_namespace   str, a fresh Kubernetes namespace, removed with what is in it

Missing binaries are built after collection, outside of any test's time limit. Where that cannot be done, or where
network namespaces cannot be made, the tests are skipped with the reason.
"""

import itertools
from collections.abc import Generator, Iterator
from contextlib import suppress

import pytest

from littlelb.testing.netns import unavailable
from tests.controlplane import build
from tests.controlplane.admin import Admin, ApiError, Object
from tests.controlplane.cluster import ControlPlane

_BUILT = pytest.StashKey[build.Binaries]()
_REASON = pytest.StashKey[str]()
_RUNNING = pytest.StashKey[ControlPlane]()
_numbers = itertools.count(1)


def _needs_it(item: pytest.Item) -> bool:
    return "controlplane" in getattr(item, "fixturenames", ())


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing, once, when any collected test needs it."""
    config = session.config
    if config.option.collectonly or not any(_needs_it(item) for item in session.items):
        return
    reporter = config.pluginmanager.get_plugin("terminalreporter")

    def say(line: str) -> None:
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(line)

    reason = unavailable()
    if reason is None:
        try:
            config.stash[_BUILT] = build.ensure(say)
        except build.BuildError as error:
            reason = str(error)
    if reason is not None:
        config.stash[_REASON] = reason
        say(f"real control plane: SKIPPED: {reason}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Heal before the test's own fixtures clean up through the API."""
    plane = item.config.stash.get(_RUNNING, None)
    if plane is not None and _needs_it(item):
        plane.heal()


@pytest.fixture(scope="session")
def controlplane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Run a control plane for the session; its data and logs are kept with pytest's temporary folders."""
    config = request.config
    if reason := config.stash.get(_REASON, None):
        pytest.skip(reason)
    with ControlPlane(config.stash[_BUILT], tmp_path_factory.mktemp("controlplane")) as plane:
        config.stash[_RUNNING] = plane
        yield plane
        del config.stash[_RUNNING]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say where the logs are when a test failed that used the control plane."""
    report = yield
    plane = item.config.stash.get(_RUNNING, None)
    if plane is not None and _needs_it(item) and report.failed:
        report.sections.append(("control plane", f"logs in {plane.logs}"))
    return report


@pytest.fixture
def cluster_namespace(controlplane: ControlPlane) -> Iterator[str]:
    """Make a namespace; afterwards delete its Services and pods at once, and the namespace at the server's leisure.

    LoadBalancer Services of every namespace go too: what a failed test left would be served by the daemon of the next.
    """
    admin = controlplane.admin
    name = f"test-{next(_numbers)}"
    item: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    admin.create(item)
    yield name
    for kind in ("Service", "Pod"):
        for found in admin.items("v1", kind):
            left = found["metadata"]["namespace"] == name or found["spec"].get("type") == "LoadBalancer"
            if left:
                _remove(admin, {"apiVersion": "v1", "kind": kind, "metadata": found["metadata"]})
    admin.delete(item)


def _remove(admin: Admin, item: Object) -> None:
    """Delete it without waiting for whoever would have cleaned up: no daemon and no kubelet will."""
    admin.delete(item, grace_seconds=0)
    if item["metadata"].get("finalizers"):
        with suppress(ApiError):  # a daemon that still runs was faster
            admin.patch(item, {"metadata": {"finalizers": None}})
