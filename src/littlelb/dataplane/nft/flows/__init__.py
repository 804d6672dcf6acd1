"""Flows that are under way: cuts them, lets them drain, ends them, and counts them."""
