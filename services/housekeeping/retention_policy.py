"""How long frames are kept stands in the database: processes with other settings cannot disagree about it.

The first start writes the row from its settings. Afterwards a setting changes nothing by itself:
`python -m services.commands retention apply` writes it. A process whose settings differ says so in its log and in
/health, and goes by the row.
"""

from __future__ import annotations

from config import RetentionSettings
from repositories.database import Database
from repositories.retention import Policy


def of_settings(settings: RetentionSettings) -> Policy:
    return Policy(settings.DAYS, settings.MAX_BYTES, settings.MAX_SHARE_PER_DAY)


def differing(settings: RetentionSettings, policy: Policy) -> list[str]:
    """The settings that differ from the policy, by name."""
    mine = of_settings(settings)._asdict()
    return [f"RETENTION__{name.upper()}" for name, value in policy._asdict().items() if mine[name] != value]


async def in_force(database: Database, settings: RetentionSettings) -> Policy:
    """The policy; the settings', written now, when there has been none. Raises DatabaseUnavailable."""
    async with database.one_statement(events=False) as uow:
        found = await uow.retention.policy()
    if found is not None:
        return found
    await database.retry_until_known(lambda uow: uow.retention.set_policy(of_settings(settings), replace=False))
    async with database.one_statement(events=False) as uow:
        found = await uow.retention.policy()
    assert found is not None
    return found
