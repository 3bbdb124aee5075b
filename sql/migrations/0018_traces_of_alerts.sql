-- The trace of the message that caused an alert, as its headers said: the alert is published later, maybe by another
-- worker. Workers of the version before this one write none.

ALTER TABLE alerts
    ADD COLUMN traceparent text,
    ADD COLUMN tracestate text;
