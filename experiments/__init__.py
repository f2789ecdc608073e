"""The papers' figures and tables as commands, each `python -m experiments.NAME --help`; see RESULTS.md."""
