"""What a message means: functions of (connection, model) -> result that know nothing of AMQP."""
