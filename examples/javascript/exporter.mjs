// An exporter: reserves, renews, pays each claim once, and reports all that it paid, also after a crash.

import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { Journal } from './journal.mjs';
import { NoAnswer } from './service.mjs';

const TIMEOUT_MS = 5000;
const RETRY_PAUSE_MS = 200;

/** Export claims as one run. `pay(claimId, fencingToken)` pays one, in far less than a third of the lease. */
export async function exportClaims(service, folder, { orgId, triggeredBy, format, claimIds, leaseS, pay }) {
  const start = { ...newEvent(orgId, randomUUID()), triggeredBy, format };
  const journal = Journal.of(folder, start.runId);
  journal.write({ start });
  await service.publish('run-created', start);
  let problem = null;
  try {
    const reservation = { orgId, runId: start.runId, claimIds, ttlSeconds: leaseS, mode: 'available' };
    const lease = new Lease(service, reservation);
    const { granted, conflicts, fencingToken } = await lease.begin();
    for (const { claimId, reason, runId } of conflicts) {
      journal.write({ skipped: { claimId, reason: `it is ${reason} by run ${runId}` } });
    }
    try {
      for (const claimId of granted) {
        lease.check();
        journal.write({ paying: claimId }); // from here on it may be out
        await pay(claimId, fencingToken);
        journal.write({ paid: claimId });
      }
    } finally {
      lease.end();
    }
  } catch (error) {
    problem = error;
  }
  await report(service, journal, problem, claimIds.length);
  if (problem) throw problem;
}

/** Report the runs of processes that have died. To be called at each start, before anything is exported. */
export async function reportLeft(service, folder) {
  for (const journal of Journal.left(folder)) {
    await report(service, journal, new Error('the process died before it ended the run'), Infinity);
  }
}

/** Tell how a run ended. What may be out counts as exported: to pay it again would be worse. */
async function report(service, journal, problem, wanted) {
  const facts = journal.facts();
  const start = facts.find((fact) => fact.start)?.start;
  let end = facts.find((fact) => fact.end)?.end;
  if (start && !end) {
    const paid = facts.flatMap((fact) => fact.paid ?? []);
    const out = [...new Set(facts.flatMap((fact) => fact.paying ?? []))];
    const doubts = out.filter((claimId) => !paid.includes(claimId));
    end = {
      ...newEvent(start.orgId, start.runId),
      status: paid.length === wanted ? 'completed' : out.length ? 'partial' : 'failed',
      claimIds: out,
      skippedClaims: facts.flatMap((fact) => fact.skipped ?? []),
    };
    if (doubts.length) end.error = { code: 'IN_DOUBT', detail: `these may not have gone out: ${doubts.join(', ')}` };
    else if (problem) end.error = { code: 'EXPORTER_FAILED', detail: problem.message };
    journal.write({ end }); // told again, it has the same eventId
  }
  if (start) {
    await service.publish('run-created', start); // a second time it does not count
    await service.publish('run-finished', end);
  }
  journal.remove();
}

/** Claims that are reserved, and renewed at a third of the lease. After two thirds they are not trusted. */
class Lease {
  #service;
  #request;
  #leaseMs;
  #trustedUntilMs = 0;
  #token = null;
  #problem = null;
  #ending = new AbortController();

  constructor(service, request) {
    this.#service = service;
    this.#request = request;
    this.#leaseMs = request.ttlSeconds * 1000;
  }

  /** Reserve; once more after an error that is retryable. Throws where nothing may be paid. */
  async begin() {
    const ask = () => this.#ask(this.#request, Math.min(TIMEOUT_MS, this.#leaseMs / 3));
    const result = await ask().catch(async (error) => {
      if (!error.retryable) throw error;
      await pause(RETRY_PAUSE_MS);
      return ask();
    });
    this.#token = result.fencingToken;
    if (result.granted.length) {
      this.#request = { ...this.#request, claimIds: result.granted, mode: 'all-or-nothing' };
      this.#keep().catch((error) => (this.#problem ??= error));
    }
    return result;
  }

  /** Throws if nothing more may be paid. */
  check() {
    if (performance.now() >= this.#trustedUntilMs) this.#problem ??= new Error('two thirds of the lease are over');
    if (this.#problem) throw this.#problem;
  }

  end() {
    this.#ending.abort();
  }

  async #ask(request, timeoutMs) {
    const askedMs = performance.now(); // the lease begins later than this, never earlier
    const result = await this.#service.ask('reserve-claims', request, Math.ceil(timeoutMs));
    if (result.granted.length) this.#trustedUntilMs = askedMs + (this.#leaseMs * 2) / 3;
    return result;
  }

  async #keep() {
    let waitMs = this.#leaseMs / 3;
    while (performance.now() < this.#trustedUntilMs) {
      try {
        await pause(waitMs, undefined, { signal: this.#ending.signal });
      } catch {
        return; // the run has ended
      }
      try {
        const result = await this.#ask(this.#request, this.#leaseMs / 3);
        if (result.fencingToken !== this.#token) throw new Error('another run has taken a claim of this lease');
        waitMs = this.#leaseMs / 3;
      } catch (error) {
        if (!(error instanceof NoAnswer || error.retryable)) throw error;
        waitMs = this.#leaseMs / 30;
      }
    }
  }
}

function newEvent(orgId, runId) {
  return { eventId: randomUUID(), schemaVersion: 1, occurredAt: new Date().toISOString(), runId, orgId };
}
