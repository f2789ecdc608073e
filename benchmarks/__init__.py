"""Speed and memory beside the peers that a user would pick instead."""
