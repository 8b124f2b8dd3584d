"""The command line: its commands, where they read reviews, and what they print. Needs click and rich."""
