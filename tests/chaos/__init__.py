"""A campaign of faults against a private broker, a private database and two workers, and its checker."""
