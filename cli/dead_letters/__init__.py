"""`export-runs dead-letters`: what an operator sees of events that could not be processed, and does with them."""
