"""Modules that run inside the sandboxes: standard library only, each imports its siblings."""
