"""An engine in another process: what is sent, who sends it, and who writes at the other end."""
