"""The typed entries of a kubeconfig."""

from littlelb.kube.credentials.entries import Cluster, EnvironmentEntry, NamedExtension, User, decode_base64


def test_only_the_extension_for_exec_plugins_is_handed_on() -> None:
    """`spec.cluster.config` is the extension of the reserved name; others are not for plugins."""
    other = NamedExtension("minikube", {"provider": "x"})
    ours = NamedExtension("client.authentication.k8s.io/exec", {"audience": "a"})
    assert Cluster(extensions=(other, ours)).exec_config == {"audience": "a"}
    assert Cluster(extensions=(other,)).exec_config is None


def test_the_text_form_of_a_user_holds_no_secret() -> None:
    """A user entry that ends up in a log or a traceback shows neither token nor password nor key."""
    user = User(token="t0ken", password="pa55", key_data="a2V5", username="anna")
    shown = repr(user) + repr(EnvironmentEntry("AWS_SECRET", "s3cret"))
    assert "anna" in shown
    assert not [secret for secret in ("t0ken", "pa55", "a2V5", "s3cret") if secret in shown]


def test_base64_may_be_folded_but_not_be_garbage() -> None:
    """Line breaks, which YAML block texts have, are passed over; anything else that is no base64 gives None."""
    assert decode_base64("aGVs\nbG8=\n") == b"hello"
    assert decode_base64("hello!") is None
    assert decode_base64("aGVsb") is None
