"""The bounds that a worker works within: how much at once, how often, how long.

Settings are what an operator chooses. These are what the worker was measured with, and an operator has no
reason to change them. Tests pass others.
"""

from dataclasses import dataclass
from typing import Final

from schema.limits import BODY_BYTES_MAX


@dataclass(frozen=True, slots=True)
class TimeOuts:
    """How long one transaction may wait for a lock, and how long one of its statements may take."""

    lock_s: float
    statement_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """Every bound of one worker; each name says its unit. Raises AssertionError where two contradict each other."""

    writes_max: int = 2
    """Batches of one event queue that are written at once, each of other organisations: one is decoded while PostgreSQL
    writes the other."""

    batch_events_max: int = 200
    """Larger batches store hardly faster, and hold their locks longer."""

    batch_bytes_max: int = 4 * 1024 * 1024
    """Bodies of one batch together. An event of more is stored alone."""

    event_bodies_bytes_max: int = 64 * 1024 * 1024
    """Bodies of more than 64 KiB of one event queue that a worker holds at a time. More are given back, once there is
    room for them. Decoded, an event takes several times as much."""

    request_bodies_bytes_max: int = 16 * 1024 * 1024
    """The same for one operation's requests. More are answered UNAVAILABLE."""

    give_back_pause_s: float = 0.1
    """So long after some events were given back, they have been delivered again: only then is it known what room
    there is for others."""

    batch_claims_max: int = 10_000
    """Claims of one batch together. An event with more is stored outside the writers, however it goes."""

    batch_locks_max: int = 1_404
    """Advisory locks that one batch takes: together with everything else that a worker locks at one time, they fit
    PostgreSQL's lock table twice (see handlers/locking.py)."""

    batch_lock_timeout_s: float = 0.5
    batch_statement_timeout_s: float = 1.0
    """For a batch. An event that takes longer is found and parked, so that no other waits long for it."""

    single_lock_timeout_s: float = 0.1
    single_statement_timeout_s: float = 0.25
    """For the parts of a batch that was interrupted."""

    first_try_lock_timeout_s: float = 0.05
    first_try_statement_timeout_s: float = 0.1
    """For the first try of a parked event that may have done nothing. Others wait for such tries."""

    parked_events_max: int = 400
    """Parked events of one queue that the worker holds. RabbitMQ keeps the others, for 30 seconds at a time."""

    parked_bytes_max: int = 32 * 1024 * 1024
    """The same for their bodies: the rest of the room for large bodies is for events that are not parked."""

    broker_parks_max: int = 30
    """How often RabbitMQ keeps one event so that could not be stored. After that it is dead-lettered."""

    batch_trouble_max_s: float = 1.5
    """How long the interrupted tries of a batch and of its parts may take together, of however many organisations: so
    long they hold up the batches behind it. After that what is left of the batch is parked."""

    parked_writes_max: int = 4
    """Transactions with parked events of one queue at one time, each with those of another organisation: so many with
    first tries, and so many with others."""

    parked_group_events_max: int = 20
    """Parked events of one transaction, as long as none of them is a suspect."""

    parked_look_s: float = 0.1
    """How often it is looked whether a parked event is due."""

    park_delay_first_s: float = 1.0
    park_delay_max_s: float = 60.0
    """How long a parked event waits before it is tried again: twice as long each time."""

    park_tries_max: int = 10
    park_age_max_s: float = 900
    """A parked event is dead-lettered after so many tries, or at its next try after so long: well before RabbitMQ takes
    back what was not acknowledged for 30 minutes."""

    lost_connections_suspect_min: int = 2
    lost_connections_max: int = 5
    """Events whose transactions ended so often with the connection are stored one by one: one of them may crash
    PostgreSQL. The one that goes on to do so is parked, and dead-lettered after so many lost connections in all."""

    store_timeout_s: float = 90
    """A write that takes longer hangs, and not in PostgreSQL: statements time out long before. It counts as a bug."""

    suspect_deliveries_min: int = 10
    """An event delivered so often before may be what broke its workers, and is handled alone.

    Lost connections send back hundreds of events that did nothing, so one or two deliveries mean little. RabbitMQ
    allows 50.
    """

    requeue_delay_first_s: float = 1.0
    requeue_delay_max_s: float = 60.0
    """How long an event that meets a bug is kept before it is given back: twice as long with each delivery."""

    dead_letter_timeout_s: float = 15
    """For publishing one dead letter. After that it is tried again."""

    query_claims_max: int = 1_000
    """Requests share a query as long as they name no more claims together; past that, sharing saves nothing."""

    reply_margin_share: float = 0.2
    reply_margin_max_s: float = 1.0
    """What is kept of a caller's deadline for the reply's own way: this share of it, but no longer than this."""

    reply_nodes_max: int = 64
    """Nodes of the broker that are remembered; a cluster has three or five."""

    reply_node_trials_max: int = 16
    reply_node_pause_s: float = 0.1
    reply_node_refused_s: float = 10
    """How many unknown nodes may be in question at a time; how long to wait after one that RabbitMQ does not know, and
    how long that is remembered."""

    retry_delay_first_s: float = 0.1
    retry_delay_max_s: float = 5.0
    """How long the worker waits before it tries a server that is away again: twice as long each time."""

    session_steady_s: float = 5
    """A session that lasted longer was a good one: the delays start from the first again."""

    session_end_timeout_s: float = 30
    """A session that needs longer to end is stuck, and the process ends instead."""

    answering_away_max_s: float = 30
    """How long a session goes on without a connection for its replies."""

    loop_blocked_max_s: float = 60
    """How long the event loop may stand still. The longest step of a sound worker takes a fraction of a second."""

    probe_interval_s: float = 60
    """How often the worker looks whether the database can be used, while no query has failed."""

    database_away_max_s: float = 15
    """When PostgreSQL has been away for this worker for so long, the worker hands what it holds over to others."""

    hand_over_s: float = 1.0
    """How long such a worker may take to answer what it holds, before its connections close."""

    probe_timeout_s: float = 0.5
    """The look whether PostgreSQL accepts writes may wait and take so long."""

    repeat_log_first_s: float = 60
    """What still goes wrong after so long is logged again, then each time after twice as long."""

    part_pause_first_s: float = 0.5
    part_pause_max_s: float = 10
    """How long the supervisor waits before it starts a part that has ended: twice as long each time."""

    part_steady_s: float = 30
    """A part that ran longer was a good one: the pauses start from the first again."""

    part_end_margin_s: float = 10
    """A part that must stop and takes longer than it may by so much is killed."""

    span_flush_s: float = 3
    """How long a process that ends may take to send the spans that it has not sent yet."""

    alerts_interval_s: float = 1.0
    """How long the worker waits before it looks into the outbox again, after it has found nothing there."""

    alert_organisations_max: int = 20
    alerts_of_organisation_max: int = 5
    """Organisations whose turn it is at one time, and alerts of each that are published then."""

    alert_publish_timeout_s: float = 5
    alert_taken_s: float = 30
    """What is not confirmed in time is published again later. If its worker has died meanwhile, that is so long after
    it took the alert."""

    alert_delay_first_s: float = 5
    alert_delay_max_s: float = 300
    """How long an alert waits that was not confirmed: twice as long each time. Each copy reaches the subscribers who
    have room for it."""

    pending_events_interval_s: float = 1
    """How often a worker that answers requests looks up how many events wait in the queues."""

    backlog_interval_s: float = 15
    """How often a worker that consumes events looks up for its metrics how much waits, on the broker and in the
    database."""

    stale_runs_interval_s: float = 600
    stale_runs_logged_max: int = 100
    """How often the worker looks for stale runs, and how many it counts; `list-stale-runs` lists all."""

    def __post_init__(self) -> None:
        assert 0 < self.requeue_delay_first_s <= self.requeue_delay_max_s
        assert 0 < self.retry_delay_first_s <= self.retry_delay_max_s
        assert 0 < self.part_pause_first_s <= self.part_pause_max_s
        assert self.span_flush_s < self.part_end_margin_s  # or a part that only sends its spans is killed
        assert 0 < self.alert_delay_first_s <= self.alert_delay_max_s
        assert 2 * self.alert_publish_timeout_s < self.alert_taken_s  # an alert is published twice at most
        assert 0 <= self.reply_margin_share < 1
        assert 0 < self.lost_connections_suspect_min < self.lost_connections_max  # the last ones are of one event alone
        assert self.parked_bytes_max + BODY_BYTES_MAX <= self.event_bodies_bytes_max  # parked events block no others
        assert min(self.writes_max, self.batch_events_max, self.batch_bytes_max, self.query_claims_max) > 0

    @property
    def prefetch_events(self) -> int:
        """Events of one queue that a worker holds: the next batch is there, whole, when a write ends, however many are
        parked."""
        return (self.writes_max + 1) * self.batch_events_max + self.parked_events_max


DEFAULT_LIMITS: Final = WorkerLimits()
