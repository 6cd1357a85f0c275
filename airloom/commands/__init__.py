"""Commands of the command line that look at what runs left, and what all commands print with."""
