"""Acts on this machine: addresses, link facts, listeners, all by netlink and /proc."""
