"""The promises of the ledger, checked against every transfer that was ever made."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

PROBLEMS_MAX = 100
# These checks read every transfer there is, which takes longer than any request may.
CHECK_SECONDS_MAX = 600


@dataclass(frozen=True)
class Problem:
    """A promise that does not hold: which, where, and the numbers in nano-dollars."""

    check: str
    subject: str
    detail: str


SUMS = """
WITH moves AS (
  SELECT t.*, p.amount AS held FROM ledger_transfers t LEFT JOIN ledger_transfers p ON p.id = t.pending_id
), sides AS (
  SELECT debit AS code, phase, amount, held, 'd' AS side FROM moves
  UNION ALL SELECT credit, phase, amount, held, 'c' FROM moves
), sums AS (
  SELECT code,
    coalesce(sum(amount) FILTER (WHERE side = 'd' AND phase IN ('immediate', 'posted')), 0) AS debits_posted,
    coalesce(sum(amount) FILTER (WHERE side = 'c' AND phase IN ('immediate', 'posted')), 0) AS credits_posted,
    coalesce(sum(CASE phase WHEN 'pending' THEN amount ELSE -held END)
      FILTER (WHERE side = 'd' AND phase <> 'immediate'), 0) AS debits_pending,
    coalesce(sum(CASE phase WHEN 'pending' THEN amount ELSE -held END)
      FILTER (WHERE side = 'c' AND phase <> 'immediate'), 0) AS credits_pending
  FROM sides GROUP BY code
)
SELECT coalesce(a.code, s.code) AS subject,
  format('account %s/%s/%s/%s, transfers %s/%s/%s/%s', a.debits_pending, a.debits_posted, a.credits_pending,
    a.credits_posted, s.debits_pending, s.debits_posted, s.credits_pending, s.credits_posted) AS detail
FROM ledger_accounts a FULL JOIN sums s USING (code)
WHERE (a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted) IS DISTINCT FROM
  (coalesce(s.debits_pending, 0), coalesce(s.debits_posted, 0), coalesce(s.credits_pending, 0),
   coalesce(s.credits_posted, 0))
"""
TOTAL = """
SELECT 'all accounts' AS subject,
  format('posted %s, pending %s', sum(debits_posted - credits_posted), sum(debits_pending - credits_pending)) AS detail
FROM ledger_accounts HAVING sum(debits_posted - credits_posted) <> 0 OR sum(debits_pending - credits_pending) <> 0
"""
HOLDS = """
SELECT coalesce(p.id, h.id)::text AS subject,
  format('hold %s, pending transfer %s', h.amount, p.amount) AS detail
FROM ledger_holds h FULL JOIN (
  SELECT id, debit, credit, amount FROM ledger_transfers t WHERE phase = 'pending'
    AND NOT EXISTS (SELECT 1 FROM ledger_transfers r WHERE r.pending_id = t.id)
) p USING (id)
WHERE (h.debit, h.credit, h.amount) IS DISTINCT FROM (p.debit, p.credit, p.amount)
"""
OVERDRAWN = """
SELECT code AS subject, format('available %s', credits_posted - debits_posted - debits_pending) AS detail
FROM ledger_accounts WHERE kind = 'customer' AND credits_posted - debits_posted - debits_pending < 0
"""
USAGE = """
SELECT coalesce(u.reference, t.reference) AS subject, format('usage %s, transfers %s', u.cost, t.amount) AS detail
FROM (
  SELECT 'settlement:' || settlement_id AS reference, sum(cost) AS cost FROM usage_records GROUP BY settlement_id
) u FULL JOIN (
  SELECT reference, sum(amount) AS amount FROM ledger_transfers
  WHERE kind = 'inference' AND phase IN ('immediate', 'posted') GROUP BY reference
) t USING (reference)
WHERE coalesce(u.cost, 0) <> coalesce(t.amount, 0)
"""
RUNTIME = """
SELECT 'bot:' || r.bot_id AS subject, format('periods %s, transfers %s', r.cost, t.amount) AS detail
FROM (SELECT bot_id, sum(cost) AS cost FROM runtime_periods GROUP BY bot_id) r
LEFT JOIN (
  SELECT reference, sum(amount) AS amount FROM ledger_transfers WHERE kind = 'runtime' GROUP BY reference
) t ON t.reference = 'bot:' || r.bot_id
WHERE r.cost <> coalesce(t.amount, 0)
"""
CHECKS = {
    "balances equal the sums of transfers": SUMS,
    "all accounts together are zero": TOTAL,
    "holds equal the open pending transfers": HOLDS,
    "no customer is overdrawn": OVERDRAWN,
    "usage equals what was charged": USAGE,
    "runtime equals what was charged": RUNTIME,
}


async def invariants(session: AsyncSession) -> list[Problem]:
    """Every promise that does not hold, at most PROBLEMS_MAX of each; empty when all is well.

    All checks see the same moment: the transaction is set to repeatable read, so call it first in a transaction.
    """
    await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    await session.execute(text(f"SET LOCAL statement_timeout = '{CHECK_SECONDS_MAX}s'"))
    problems: list[Problem] = []
    for check, statement in CHECKS.items():
        rows = await session.execute(text(f"{statement} LIMIT {PROBLEMS_MAX}"))  # constants above
        problems += [Problem(check, row.subject, row.detail) for row in rows]
    return problems
