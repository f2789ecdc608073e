"""One short file per published claim; each prints a table published beside measured."""
