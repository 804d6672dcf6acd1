"""The kernel plane: one static table, Services as its map elements."""
