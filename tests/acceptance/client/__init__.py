"""What export-runs-client promises its users, against a real worker."""
