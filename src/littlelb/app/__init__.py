"""Builds everything from the configuration and runs it; the only room that knows every adapter."""

import asyncio

from littlelb.app import daemon
from littlelb.app.commands import check as checking
from littlelb.app.commands import cleanup as clearing
from littlelb.app.commands import plan as planning
from littlelb.app.commands import trace as tracing
from littlelb.config import Config
from littlelb.core.shown.findings import Finding
from littlelb.core.shown.plan_document import PlanDocument
from littlelb.core.trace.packet import Packet, Trace


def run(config: Config) -> int:
    """Be the daemon; return the exit code."""
    return asyncio.run(daemon.run(config))


def plan(config: Config) -> PlanDocument:
    """Compute what `run` would change, and write nothing."""
    return asyncio.run(planning.plan(config))


def check(config: Config) -> list[Finding]:
    """Look at permissions, kernel and network."""
    return asyncio.run(checking.check(config))


def trace(config: Config, packet: Packet) -> Trace:
    """Follow a packet through what a run would decide; send nothing."""
    return asyncio.run(tracing.trace(config, packet))


def cleanup(config: Config, *, dry_run: bool) -> list[str]:
    """Remove everything that bears our mark; return a line for each thing."""
    return asyncio.run(clearing.cleanup(config, dry_run=dry_run))
