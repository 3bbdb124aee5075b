// Runs the exporter or the guard as the conformance kit wants it: node conformance.mjs exporter|guard

import { setTimeout as pause } from 'node:timers/promises';
import { exportClaims, reportLeft } from './exporter.mjs';
import { freeClaims } from './guard.mjs';
import { Service } from './service.mjs';

const { env } = process;
const orgId = env.CONFORMANCE_ORG_ID;
const claimIds = env.CONFORMANCE_CLAIM_IDS.split(',');
const service = new Service(env.EXPORT_RUNS_AMQP_URL);

async function exporter() {
  await reportLeft(service, env.CONFORMANCE_FOLDER);
  const pay = async (claimId) => {
    await pause(Number(env.CONFORMANCE_PAY_S) * 1000);
    console.log(`paid ${claimId}`);
  };
  const leaseS = Number(env.CONFORMANCE_LEASE_S);
  await exportClaims(service, env.CONFORMANCE_FOLDER, {
    orgId,
    triggeredBy: 'alice',
    format: 'csv',
    claimIds,
    leaseS,
    pay,
  });
}

async function guard() {
  for (const claimId of await freeClaims(service, orgId, claimIds)) console.log(`free ${claimId}`);
}

try {
  await { exporter, guard }[process.argv[2]]();
} catch (error) {
  console.error(`stopped: ${error.message}`);
  process.exitCode = 1;
} finally {
  await service.close();
}
