"""The command `export-runs import`: old records, from spreadsheets and lists, become events."""
