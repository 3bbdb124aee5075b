"""The command `export-runs report`: audit reports as a page, tables, a workbook or JSON."""
