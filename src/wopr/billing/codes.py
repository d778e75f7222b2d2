"""Names of the ledger's accounts, and what kind each is."""

from uuid import UUID

from wopr.core.ids import TenantId

STRIPE = "house:stripe"
GRANTS = "house:grants"
# Every settlement credits revenue: one row would make all customers wait for each other's commit, sixteen do not.
REVENUE_SHARDS = 16


def customer(tenant_id: UUID) -> str:
    """A tenant's credit. It can't go below zero."""
    return f"customer:{tenant_id}"


def debt(tenant_id: UUID) -> str:
    """What a tenant owes beyond the credit; the next payment settles it first."""
    return f"debt:{tenant_id}"


def revenue(source: str, tenant_id: UUID) -> str:
    """Where a tenant's spending on `inference` or `runtime` goes."""
    return f"house:revenue:{source}:{shard(tenant_id):02d}"


def shard(tenant_id: UUID) -> int:
    """Which part of revenue a tenant's spending goes to: workers on different parts never wait for each other."""
    return tenant_id.int % REVENUE_SHARDS


def kind_of(code: str) -> str:
    """customer, debt or house; ValueError for anything else."""
    kind = code.partition(":")[0]
    if kind not in ("customer", "debt", "house"):
        raise ValueError(f"not a ledger account: {code!r}")
    return kind


def tenant_of(code: str) -> TenantId | None:
    """Whose account it is; None for the house's."""
    return None if kind_of(code) == "house" else TenantId(UUID(code.partition(":")[2]))
