"""`export-runs conformance`: plays the service to a program, and says which rules of the contract it breaks."""
