"""The userspace plane: worker processes that copy bytes between two sockets."""
