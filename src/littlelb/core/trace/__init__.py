"""What becomes of one packet, rule by rule, and why: `loadbalancer trace`."""
