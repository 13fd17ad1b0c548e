"""Stage optimize: critics judge candidates and choose what goes on."""
