"""How messages move: from a queue to a handler, and from its result to an ack or a reply."""
