"""Writes onto Services: from the cached object first, after a conflict from a fresh one, at a bounded pace.

cached ─► compose ─► patch ─► 200: the answer goes to the cache
            ▲          ├─► 404, or another uid: there is nothing left to write on
            └── GET ◄──┴─► 409, 422: somebody was faster, compose again (at most 3 times)
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import msgspec

from littlelb.core.errors import Permanent, Transient, WorldError
from littlelb.core.model import Key, Service
from littlelb.core.plan import Failure, Severity
from littlelb.core.reasons import Reason
from littlelb.kube.client import SERVICES, Api, Conflict, Invalid, NotFound, Reference
from littlelb.kube.ownership import Ownership, owners
from littlelb.kube.writes.budget import TokenBucket
from littlelb.kube.writes.patches import Patch

ATTEMPTS = 3
AT_A_TIME = 8


class Current(NamedTuple):
    """A Service, and who owns its fields; None where it came from the cache, which does not keep that."""

    service: Service
    owned: Ownership | None = None


Compose: TypeAlias = Callable[[Current], Patch | None]
"""What to write onto this object; None: nothing (any more)."""


class Cache(NamedTuple):
    """The store, as far as a writer of Services sees it."""

    read: Callable[[], Mapping[Key, Service]]
    """A live view, not a copy: it is asked once or twice for each write."""
    told: Callable[[Service], None]
    """Take what the API server answered to a write, before the watch tells it."""


class ServiceWriter:
    """One for all targets that write on Services."""

    def __init__(self, api: Api, budget: TokenBucket, decode: Callable[[bytes], Service], cache: Cache) -> None:
        """`decode` turns the JSON of one Service into the model."""
        self._api = api
        self._budget = budget
        self._decode = decode
        self._cache = cache

    def cached(self) -> Mapping[Key, Service]:
        """Return all Services that the store knows."""
        return self._cache.read()

    async def fetch(self, key: Key) -> Current | None:
        """Read one Service with its owners from the API server; None if it is gone. Reads are not paced."""
        try:
            text = await self._api.get(_reference(key))
        except NotFound:
            return None
        with _as_read(key):
            return Current(self._decode(text), owners(text))

    async def write(self, key: Key, uid: str, compose: Compose, *, fresh: bool = False) -> Current | None:
        """Patch until what `compose` asks for is written; return the object as it is then, None if it is gone.

        `fresh`: begin with a GET, because `compose` needs the owners. Raises `Transient` or `Permanent`.
        """
        known = None if fresh else self._cache.read().get(key)
        current = Current(known) if known is not None else await self.fetch(key)
        refusal: WorldError | None = None
        for _ in range(ATTEMPTS):
            if current is None or current.service.uid != uid:
                return None
            patch = compose(current)
            if patch is None:
                return current
            try:
                return Current(await self._send(key, patch), current.owned)
            except NotFound:
                return None
            except (Conflict, Invalid) as error:
                refusal = error
            current = await self.fetch(key)
        raise _final(refusal, key)

    async def _send(self, key: Key, patch: Patch) -> Service:
        await self._budget.take()
        text = await self._api.patch(_reference(key, patch.subresource), patch.encode())
        with _as_read(key):
            service = self._decode(text)
        self._tell(service)
        return service

    def _tell(self, service: Service) -> None:
        """Hand the answer on, unless the watch was faster: a cache must not go back, nor a deleted object rise."""
        known = self._cache.read().get(service.key)
        if known is None or known.uid != service.uid or service.deleting:
            return
        if _is_newer(service.resource_version, known.resource_version):
            self._cache.told(service)


@contextmanager
def _as_read(key: Key) -> Iterator[None]:
    """A 200 whose body is no object comes from something in between, a proxy perhaps: it may pass."""
    try:
        yield
    except msgspec.MsgspecError as error:
        raise Transient(f"the answer about {key} cannot be read: {error}") from error


def _final(refusal: WorldError | None, key: Key) -> WorldError:
    """A text that the server refuses again and again will not pass by itself."""
    if isinstance(refusal, Invalid):
        return Permanent(f"the API server refuses what should be written on {key}: {refusal}")
    return Transient(f"{key} changes faster than it can be written: {refusal}")


def _is_newer(version: str, than: str) -> bool:
    """Compare resourceVersions as numbers, which the API promises for one resource (KEP-5504); else assume no."""
    return version.isdecimal() and than.isdecimal() and int(version) > int(than)


def _reference(key: Key, subresource: str = "") -> Reference:
    namespace, _, name = key.partition("/")
    return Reference(SERVICES, namespace, name, subresource)


def failure_from(error: WorldError) -> Failure:
    """Make a value of what the API server, or the way to it, had against a write."""
    if isinstance(error, Permanent):
        return Failure(Reason.NOT_PERMITTED, str(error), Severity.PERMANENT)
    return Failure(Reason.FAILED, str(error))


async def write_each(keys: Iterable[Key], write: Callable[[Key], Awaitable[Failure | None]]) -> dict[Key, Failure]:
    """Do the work for each key, eight at a time; return those that failed, and why."""
    failures: dict[Key, Failure] = {}
    waiting = iter(keys)

    async def work() -> None:
        for key in waiting:  # one iterator for all workers: each key is taken once
            try:
                failure = await write(key)
            except WorldError as error:
                failure = failure_from(error)
            if failure is not None:
                failures[key] = failure

    async with asyncio.TaskGroup() as group:
        for number in range(AT_A_TIME):
            group.create_task(work(), name=f"kube.write-{number}")
    return failures
