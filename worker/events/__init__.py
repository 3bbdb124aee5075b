"""The way of an event: from its queue to the commit and the ack, or to the dead letters."""
