"""Thousands of damaged files: every one is read as what it is, or refused in one sentence.

`python -m tests.fuzz --count N` or `--seconds N` from the repository's root, `--only FORMAT SEED` for one of them.
"""
