"""What a message means: functions that take a connection and a model, return a result, and know nothing of AMQP."""
