"""What is said about entries that cannot work."""

import pytest

from littlelb.kube.credentials.entries import AuthProvider, Cluster, Exec, User
from littlelb.kube.credentials.faults import judge_cluster, judge_user

V1 = "client.authentication.k8s.io/v1"


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        (Cluster(), "no server"),
        (Cluster(server="198.51.100.1:6443"), "not a URL"),
        (Cluster(server="https://[::1:6443"), "not a URL"),
        (Cluster(server="https://api", proxy_url="socks5://p:1080"), "proxy-url"),
        (Cluster(server="https://api", insecure=True, ca_file="/ca"), "insecure-skip-tls-verify"),
        (Cluster(server="https://api", ca_data="%%%"), "certificate-authority-data is not base64"),
    ],
)
def test_a_cluster_that_cannot_work_is_named_with_its_remedy(cluster: Cluster, said: str) -> None:
    """Each fault gives one line that begins with where it stands."""
    errors: list[str] = []
    judge_cluster(cluster, "there", errors)
    assert len(errors) == 1
    assert errors[0].startswith("there: ")
    assert said in errors[0]


@pytest.mark.parametrize(
    ("user", "said"),
    [
        (User(auth_provider=AuthProvider("gcp")), "gke-gcloud-auth-plugin"),
        (User(auth_provider=AuthProvider("azure")), "kubelogin convert-kubeconfig"),
        (User(auth_provider=AuthProvider("oidc")), "kubelogin"),
        (User(auth_provider=AuthProvider("mine")), "exec credential plugin"),
        (User(certificate_file="/a.crt"), "no client-key"),
        (User(key_data="a2V5"), "no client-certificate"),
        (User(token="t", username="anna"), "token and a username"),
        (User(certificate_data="!", key_data="a2V5"), "client-certificate-data is not base64"),
        (User(exec=Exec(api_version=V1)), "no command"),
        (User(exec=Exec("client.authentication.k8s.io/v1alpha1", "aws")), f"set it to {V1}"),
        (User(exec=Exec(V1, "aws", interactive_mode="Sometimes")), "none of Never"),
        (User(exec=Exec(V1, "aws", interactive_mode="Always")), "needs a terminal"),
    ],
)
def test_a_user_that_cannot_work_is_named_with_its_remedy(user: User, said: str) -> None:
    """A removed auth-provider names what replaced it; half a certificate, two ways at once, bad plugins are told."""
    errors: list[str] = []
    judge_user(user, "there", errors)
    assert len(errors) == 1
    assert said in errors[0]


def test_sound_entries_are_not_remarked_upon() -> None:
    """What kubectl takes is taken."""
    errors: list[str] = []
    judge_cluster(Cluster(server="https://api/k8s/clusters/c-1", proxy_url="http://p:3128"), "there", errors)
    for user in (
        User(),
        User(token="t", token_file="/t"),
        User(exec=Exec(V1, "aws")),
        User(username="a", password="b"),
    ):
        judge_user(user, "there", errors)
    assert errors == []
