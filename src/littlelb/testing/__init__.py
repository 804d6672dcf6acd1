"""Doubles and namespaces that we ship and test; nothing shipped imports this."""
