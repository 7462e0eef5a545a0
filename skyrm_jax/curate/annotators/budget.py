"""Money: no call is begun that could take the sum over its limit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from skyrm_jax.errors import UserError


class BudgetSpent(UserError):
    """What is left of the budget does not pay for the next call.

    Attributes:
        spent: USD, with what calls that gave no answer may have cost.
        limit: the budget in USD.
        missing: USD by which it falls short of the next call.
    """

    def __init__(self, spent: float, limit: float, missing: float, more: str = "") -> None:
        self.spent, self.limit, self.missing = spent, limit, missing
        super().__init__(
            f"the budget is spent: {dollars(spent)} of {dollars(limit)}, and the next call can cost {dollars(missing)} "
            f"more than what is left{more}; every answer is kept: raise the budget and run the same command again"
        )


class Budget:
    """A sum that is never passed, as long as no call costs more than was said before it.

    Args:
        limit: USD; None: no limit.
        spent: USD spent before.
    """

    def __init__(self, limit: float | None, spent: float) -> None:
        self.limit, self.spent = limit, spent
        self._held: dict[object, float] = {}
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def hold(self, most: float) -> AsyncIterator["Hold"]:
        """Keeps `most` back for one call, which says what it did cost. Waits for others to end if it does not fit.

        Raises BudgetSpent if it does not fit though no other call is under way.
        """
        hold = Hold()
        async with self._turn:  # in the order of asking, or small calls would keep a large one waiting for ever
            while (missing := self._missing(most)) > 1e-9:  # the rounding of sums
                if not self._held:
                    assert self.limit is not None
                    raise BudgetSpent(self.spent, self.limit, missing)
                self._freed.clear()
                await self._freed.wait()
            self._held[hold] = most
        try:
            yield hold
        finally:
            del self._held[hold]
            self.spent += hold.cost
            self._freed.set()

    def _missing(self, most: float) -> float:
        if self.limit is None:
            return 0.0
        return self.spent + sum(self._held.values()) + most - self.limit


class Hold:
    """What is kept back for one call; `cost` is what counts once it has ended: nothing, unless it is set."""

    cost = 0.0


def dollars(usd: float) -> str:
    """An amount in words, with as many digits as it needs."""
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4g}"
