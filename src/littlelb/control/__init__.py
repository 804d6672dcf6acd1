"""THE LOOP: store, reconciler, state file."""
