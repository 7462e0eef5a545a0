"""Language models that annotate, behind OpenAI-compatible endpoints: asked once, answers kept, every call accounted for."""

from skyrm_jax.curate.annotators.annotator import Annotator
from skyrm_jax.curate.annotators.budget import BudgetSpent
from skyrm_jax.curate.annotators.calls import Calls
from skyrm_jax.curate.annotators.fence import Fence
from skyrm_jax.curate.annotators.ledger import Tally, summary
from skyrm_jax.curate.annotators.prompt import Prompt
from skyrm_jax.curate.annotators.request import Answer, Request

__all__ = ["Annotator", "Answer", "BudgetSpent", "Calls", "Fence", "Prompt", "Request", "Tally", "summary"]
