"""A process with a kernel plane, to be killed: serves one frontend, then says `ready` and waits.

python nft_daemon.py VIP PORT BACKEND [BACKEND ...]          (all at port 8080, by TCP)
"""

import asyncio
import sys
from collections.abc import Sequence
from ipaddress import ip_address

from littlelb.core.model import Backend, Forward, Frontend, Plane, Protocol
from littlelb.core.plan import Changes
from littlelb.dataplane.nft.plane import NftPlane, NftSettings


async def serve(words: Sequence[str]) -> None:
    """Serve until killed."""
    frontend = Frontend(ip_address(words[0]), Protocol.TCP, int(words[1]))
    backends = tuple(Backend(ip_address(word), 8080) for word in words[2:])
    plane = NftPlane(NftSettings("eth0"), lambda: None)
    await plane.start()
    await plane.observe(None)
    await plane.apply(Changes(add={frontend: Forward(service="default/web", backends=backends, plane=Plane.NFT)}))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await plane.run()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:]))
