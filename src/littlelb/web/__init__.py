"""SHOWS: health, metrics, status."""

SOCKET_NAME = "littlelb.sock"
"""The daemon's socket in its run directory; here, so that the command line need not import a server to find it."""
