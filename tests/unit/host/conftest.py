"""What the host tests share."""

import pytest

from littlelb.testing.fake_kernel import FakeKernel


@pytest.fixture
def kernel() -> FakeKernel:
    """A machine with eth0 and eth1 and no address."""
    return FakeKernel()
