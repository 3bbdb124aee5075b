"""How fast the service is, beside others that do the same with the same broker and database."""
