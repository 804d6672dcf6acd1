"""Forwards as elements of our maps, and back: what is written, what is read, what a change means. Pure."""
