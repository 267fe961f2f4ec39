"""This machine: clocks, identity facts, feed file, child processes."""
