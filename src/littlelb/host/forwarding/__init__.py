"""Lets the kernel forward between the devices of clients and backends, and puts back what was changed for it."""
