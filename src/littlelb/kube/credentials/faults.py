"""Judges the entries that a context chose: what cannot work is said before anything is tried, all of it at once."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from littlelb.kube.credentials.entries import Cluster, Exec, User, decode_base64

SUPPORTED_EXEC = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_REPLACEMENTS = {
    "gcp": "gke-gcloud-auth-plugin (run `gcloud container clusters get-credentials CLUSTER` to write it)",
    "azure": "kubelogin (run `kubelogin convert-kubeconfig`)",
    "oidc": "kubelogin (run `kubectl oidc-login setup`, from github.com/int128/kubelogin)",
    "openstack": "client-keystone-auth (from cloud-provider-openstack)",
}


def judge_cluster(cluster: Cluster, where: str, errors: list[str]) -> None:
    """Add what is wrong with where the server is and how it is verified; each line begins with `where`."""
    if not cluster.server:
        errors.append(f"{where}: no server; set it to the API server's URL, https://HOST:6443")
    elif _url_fault(cluster.server):
        errors.append(f"{where}: server {cluster.server!r} is not a URL; write it as https://HOST:6443")
    if cluster.proxy_url and _url_fault(cluster.proxy_url):
        errors.append(
            f"{where}: proxy-url {cluster.proxy_url!r} is not an http:// or https:// URL, others are not spoken"
        )
    if cluster.insecure and (cluster.ca_file or cluster.ca_data):
        errors.append(f"{where}: has a certificate-authority and insecure-skip-tls-verify; remove one (keep the first)")
    _judge_base64(where, {"certificate-authority-data": cluster.ca_data}, errors)


def _url_fault(text: str) -> bool:
    try:
        url = urlsplit(text)
        faulty = url.scheme not in ("http", "https") or not url.hostname or url.port == 0
    except ValueError:
        return True
    return faulty


def _judge_base64(where: str, fields: Mapping[str, str], errors: list[str]) -> None:
    errors.extend(
        f"{where}: {name} is not base64; write the file with `base64 -w0`, or name its path in {name[:-5]}"
        for name, text in fields.items()
        if text and not decode_base64(text)
    )


def judge_user(user: User, where: str, errors: list[str]) -> None:
    """Add what is wrong with how we sign in; each line begins with `where`."""
    if user.auth_provider is not None:
        name = user.auth_provider.name
        replacement = _REPLACEMENTS.get(name, "an exec credential plugin of your provider")
        errors.append(f"{where}: auth-provider {name!r} is gone from Kubernetes clients; use {replacement}")
    certificate, key = user.certificate_file or user.certificate_data, user.key_file or user.key_data
    if bool(certificate) != bool(key):
        have, lack = ("client-certificate", "client-key") if certificate else ("client-key", "client-certificate")
        errors.append(f"{where}: has a {have} but no {lack}; add {lack} or {lack}-data")
    _judge_base64(where, {"client-certificate-data": user.certificate_data, "client-key-data": user.key_data}, errors)
    if (user.token or user.token_file) and (user.username or user.password):
        errors.append(f"{where}: has a token and a username; keep one of the two ways to sign in")
    if user.exec is not None:
        _judge_exec(user.exec, where, errors)


def _judge_exec(plugin: Exec, where: str, errors: list[str]) -> None:
    if not plugin.command:
        errors.append(f"{where}: exec has no command; name the credential plugin's program")
    if plugin.api_version not in SUPPORTED_EXEC:
        errors.append(
            f"{where}: exec apiVersion {plugin.api_version!r} is not spoken; set it to {SUPPORTED_EXEC[0]} "
            "(upgrade the plugin if it cannot), and interactiveMode to Never or IfAvailable"
        )
    if plugin.interactive_mode not in {"", "Never", "IfAvailable", "Always"}:
        errors.append(
            f"{where}: exec interactiveMode {plugin.interactive_mode!r} is none of Never, IfAvailable, Always"
        )
    if plugin.interactive_mode == "Always":
        errors.append(f"{where}: exec interactiveMode Always needs a terminal, which a daemon lacks; use IfAvailable")
