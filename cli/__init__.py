"""The operator's command, `export-runs`."""
