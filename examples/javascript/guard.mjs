// The Double-Export Guard: which of these claims may be exported?

const TIMEOUT_MS = 3000;

/** The claims that are unexported. Throws where nobody knows: then none may be exported. */
export async function freeClaims(service, orgId, claimIds) {
  const checked = await service.ask('check-claims', { orgId, claimIds }, TIMEOUT_MS);
  return checked.unexported;
}
