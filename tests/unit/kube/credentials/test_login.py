"""The ways to sign in."""

import os
from pathlib import Path

import pytest

from littlelb.core.errors import Permanent
from littlelb.kube.credentials.login import FixedLogin, TokenFileLogin
from tests.unit.kube.conftest import StillClock


async def test_fixed_headers_stay_as_they_are() -> None:
    """A 401 changes nothing: there is no second place to look."""
    login = FixedLogin({"Authorization": "Basic YTpi"})
    login.invalidate()
    assert await login.headers() == {"Authorization": "Basic YTpi"}


async def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path, clock: StillClock) -> None:
    """Rotation is seen at the next request, also when the file is swapped under a symlink as the kubelet does it."""
    (tmp_path / "one").write_text("first\n")
    (tmp_path / "two").write_text("second\n")
    link = tmp_path / "token"
    link.symlink_to("one")
    login = TokenFileLogin(link, clock)
    assert await login.headers() == {"Authorization": "Bearer first"}
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(link)
    assert await login.headers() == {"Authorization": "Bearer second"}


@pytest.mark.parametrize("because", ["time", "refusal"])
async def test_a_token_file_is_read_again_after_a_minute_and_after_a_401(
    tmp_path: Path, clock: StillClock, because: str
) -> None:
    """Even where nothing about the file seems to have changed."""
    path = tmp_path / "token"
    path.write_text("first")
    stat = path.stat()
    login = TokenFileLogin(path, clock)
    await login.headers()
    path.write_text("other")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert await login.headers() == {"Authorization": "Bearer first"}
    if because == "time":
        clock.elapsed = 60.0
    else:
        login.invalidate()
    assert await login.headers() == {"Authorization": "Bearer other"}


async def test_a_token_file_that_vanishes_leaves_the_last_token_in_force(tmp_path: Path, clock: StillClock) -> None:
    """A volume being remounted must not sign us out; without any token yet it is an error with its remedy."""
    path = tmp_path / "token"
    path.write_text("first")
    login = TokenFileLogin(path, clock)
    await login.headers()
    path.unlink()
    assert await login.headers() == {"Authorization": "Bearer first"}
    path.write_text("")
    with pytest.raises(Permanent, match=r"it is empty.*check"):
        await TokenFileLogin(path, clock).headers()
    assert await TokenFileLogin(path, clock, "fallback").headers() == {"Authorization": "Bearer fallback"}
