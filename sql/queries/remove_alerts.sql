-- Remove alerts that RabbitMQ has confirmed.
DELETE FROM alerts
USING unnest($1::text[], $2::uuid[]) AS published (org_id, event_id)
WHERE alerts.org_id = published.org_id AND alerts.event_id = published.event_id
