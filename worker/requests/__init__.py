"""The way of a request: from its queue to the query, the ack and the reply."""
