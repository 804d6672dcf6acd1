"""FORWARDS packets; each plane has the same three parts."""
