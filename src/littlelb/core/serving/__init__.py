"""How one Service is served: which plane carries it, which backends with what weight, whose address they see."""
