"""Speaks nfnetlink: nf_tables transactions, set elements, dumps, notifications; conntrack. Knows no Services."""
