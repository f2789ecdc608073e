"""The papers' figures and tables as commands, each `python -m experiments.NAME --help`; see RESULTS.md.

A run with other settings than the defaults writes its section and picture into its own --output; `--results
experiments/RESULTS.md --pictures docs/pictures` puts them where the published ones are.
"""
