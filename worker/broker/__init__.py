"""RabbitMQ: connections, what is done with a message, the topology, blocked connections, malformed frames."""
