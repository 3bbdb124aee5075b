"""`export-runs contract`: the contract for machines, generated from the models, the operations and the topology."""
