"""Speaks ctnetlink: lists, counts and deletes the flows of the conntrack table. Knows no Services."""
