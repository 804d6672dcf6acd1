"""The tests' own way into the API, as system:masters: create, apply, patch, delete, and wait for a state.

Deliberately not the program's client: what a test checks must not be checked with itself.
"""

import http.client
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
"""A Kubernetes object as the API's JSON has it."""

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

_CLUSTER_SCOPED = frozenset({"Namespace", "Node", "ClusterRole", "ClusterRoleBinding", "SubjectAccessReview"})
_IRREGULAR = {"Endpoints": "endpoints"}


class ApiError(Exception):
    """The API server said no; `status` is the HTTP status and `answer` its Status object or text."""

    def __init__(self, status: int, answer: Any, request: str) -> None:
        """Say what was asked and what the answer was."""
        message = answer.get("message", answer) if isinstance(answer, dict) else answer
        super().__init__(f"{request}: {status} {message}")
        self.status = status
        self.answer = answer


def path_of(api_version: str, kind: str, namespace: str | None = None, name: str | None = None) -> str:
    """URL path of one object, or without a name of the collection (of all namespaces when there is none either)."""
    prefix = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    plural = _IRREGULAR.get(kind, kind.lower() + ("es" if kind.endswith("s") else "s"))
    parts = [prefix]
    if namespace is not None and kind not in _CLUSTER_SCOPED:
        parts.append(f"namespaces/{namespace}")
    parts.append(plural)
    if name is not None:
        parts.append(name)
    return "/".join(parts)


def path_of_object(item: Object) -> str:
    """URL path of an object by what it says about itself; namespaced ones without a namespace live in `default`."""
    metadata = item["metadata"]
    return path_of(item["apiVersion"], item["kind"], metadata.get("namespace", "default"), metadata["name"])


def tls_context(authority: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Trust one authority, and present a client certificate if there is one."""
    context = ssl.create_default_context(cafile=str(authority))
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


class Admin:
    """Synchronous requests to one API server; JSON in, JSON out; raises ApiError for every answer from 400 up."""

    def __init__(self, server: str, tls: ssl.SSLContext, kubeconfig: Path, token: str | None = None) -> None:
        """`server` is https://HOST:PORT; `kubeconfig` is for kubectl; `token` makes it somebody else than the admin."""
        self.server = server
        self.kubeconfig = kubeconfig
        self._address = urllib.parse.urlsplit(server)
        self._tls = tls
        self._token = token

    def request(
        self, method: str, path: str, body: object = None, content: str = "application/json", timeout: float = 10
    ) -> Any:
        """Send one request on its own connection; return the parsed answer (text where it is not JSON).

        A watch is read to its end (timeoutSeconds in its query) and returned as a list of events.
        """
        host, port = self._address.hostname or "", self._address.port
        connection = http.client.HTTPSConnection(host, port, context=self._tls, timeout=timeout)
        headers = {"Content-Type": content, "Accept": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        is_json = (response.getheader("Content-Type") or "").startswith("application/json")
        if response.status >= 400:
            raise ApiError(response.status, json.loads(text) if is_json else text, f"{method} {path}")
        if "watch=true" in path:
            return [json.loads(line) for line in text.splitlines()]
        return json.loads(text) if is_json else text

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Object:
        """Read one object."""
        found: Object = self.request("GET", path_of(api_version, kind, namespace, name))
        return found

    def items(self, api_version: str, kind: str, namespace: str | None = None, selector: str = "") -> list[Object]:
        """List a collection; `selector` is a label selector."""
        query = f"?labelSelector={urllib.parse.quote(selector)}" if selector else ""
        found: list[Object] = self.request("GET", path_of(api_version, kind, namespace) + query)["items"]
        return found

    def create(self, item: Object) -> Object:
        """Create one object; 409 if it exists."""
        path = path_of_object(item).rsplit("/", 1)[0]
        made: Object = self.request("POST", path, item)
        return made

    def apply(self, item: Object, *, field_manager: str = "tests") -> Object:
        """Create or change one object by server-side apply, taking fields from others."""
        path = f"{path_of_object(item)}?fieldManager={field_manager}&force=true"
        made: Object = self.request("PATCH", path, item, APPLY)
        return made

    def patch(self, item: Object, change: Object, subresource: str = "", content: str = MERGE) -> Object:
        """Change one object, or its `subresource` (status); null in a merge patch removes a field."""
        path = path_of_object(item) + (f"/{subresource}" if subresource else "")
        made: Object = self.request("PATCH", path, change, content)
        return made

    def delete(self, item: Object, *, grace_seconds: int | None = None) -> None:
        """Delete one object; it is no error when it is gone already."""
        options = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        try:
            self.request("DELETE", path_of_object(item), {"kind": "DeleteOptions", "apiVersion": "v1", **options})
        except ApiError as error:
            if error.status != 404:
                raise

    def wait(self, item: Object, until: Callable[[Object | None], bool], timeout: float = 10) -> Object | None:
        """Poll one object until `until(object, or None when it is not there)`; return it. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                found: Object | None = self.request("GET", path_of_object(item))
            except ApiError as error:
                if error.status != 404:
                    raise
                found = None
            if until(found):
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path_of_object(item)} after {timeout:.0f} s: {json.dumps(found)[:2000]}")
            time.sleep(0.02)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl (of the virtual environment, else of the PATH) and return its output; errors carry its stderr."""
        beside = Path(sys.executable).with_name("kubectl")
        program = str(beside) if beside.exists() else "kubectl"
        # Its discovery cache is kept beside the kubeconfig, not in the home directory.
        environment: Mapping[str, str] = {**os.environ, "KUBECACHEDIR": str(self.kubeconfig.parent / "kubectl-cache")}
        done = subprocess.run(
            [program, f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=environment,
        )
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout


def read_manifests(text: str) -> list[Object]:
    """Parse multi-document YAML into objects, leaving out empty documents."""
    return [item for item in yaml.safe_load_all(text) if item is not None]
