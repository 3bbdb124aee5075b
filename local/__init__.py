"""RabbitMQ and PostgreSQL for development, the demo and the tests. No part of the product, and never shipped."""
