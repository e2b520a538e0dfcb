"""The part of the sandbox that runs outside the caller: stdlib only, one thread, started bare."""
