"""littlelb, the little load balancer. Kept empty of imports: the pipe's workers import this package and stay small."""

__version__ = "0.1.0"
