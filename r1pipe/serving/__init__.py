"""A generation server: any engine behind HTTP, watched and restarted, fed with weights."""
