"""Display of a run for the command `top`: what it shows, on a terminal and as plain lines, and what is typed."""
