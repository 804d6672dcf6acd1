"""`plan`, `check` and `cleanup`: what is there, looked at, judged or cleared beside the daemon."""
