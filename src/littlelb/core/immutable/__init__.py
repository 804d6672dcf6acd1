"""Mappings that never change and whose next version costs as much as what is new in it."""
