"""Runs of a command in several processes: items handed out, outcomes gathered, one limit over all."""
