-- The lock that every INSERT, UPDATE and DELETE takes on its table. It waits only for somebody who keeps all writers out.
LOCK TABLE export_run_events, export_runs, export_run_claims, claim_leases, claim_overrides,
    claim_details IN ROW EXCLUSIVE MODE
