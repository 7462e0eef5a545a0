"""The configuration of a curation: frozen dataclasses, read from strict YAML with command-line overrides."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from skyrm_jax.config import ConfigParser
from skyrm_jax.curate.annotators import Annotator
from skyrm_jax.curate.attributes import AttributeOptions
from skyrm_jax.curate.decisions import Rule
from skyrm_jax.curate.engine import Engine
from skyrm_jax.curate.humans.queue import HumanQueue
from skyrm_jax.curate.judge import JudgeOptions
from skyrm_jax.curate.preprocess import Preprocess
from skyrm_jax.curate.retrieval import MOST
from skyrm_jax.curate.training import RewardModel
from skyrm_jax.curate.votes import VoteOptions
from skyrm_jax.errors import UserError


@dataclass(frozen=True)
class EmbedderConfig:
    """What makes the vectors by which similar pairs are found.

    Args:
        checkpoint: our checkpoint, a Hugging Face folder or a Hub id, such as Qwen/Qwen3-Embedding-0.6B. Default: the
            iteration's reward model, by the hidden states that its rewards are read from.
        template: chat template; `qwen3-embedding` for Qwen3-Embedding models. Default: the checkpoint's own.
        max_tokens: longest conversation; longer ones lose the beginning of their prompt.
        dtype: of matrix operands.
    """

    checkpoint: str | None = None
    template: str | None = None
    max_tokens: int = 8192
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


@dataclass(frozen=True)
class Stage1:
    """The loop of people, annotators and the reward model.

    Args:
        iterations: after a first one, number 0, whose pairs are drawn at random.
        first: pairs of iteration 0.
        pairs: pairs of each later one, at most.
        neighbours: pairs fetched for a verified pair that the reward model gets wrong; fewer for others, by its p.
        retrieval: how later iterations find pairs: `adaptive`, the neighbours of verified pairs that the reward model is
            least sure of; or `random`, for comparison.
        silver: which pairs train the reward model: `agreed`, those on whose label annotators agree with the data; or
            `relabelled`, all that annotators have a preference on, with the annotators' label.
    """

    iterations: int = 8
    first: int = 20_000
    pairs: int = 100_000
    neighbours: int = MOST
    retrieval: Literal["adaptive", "random"] = "adaptive"
    silver: Literal["agreed", "relabelled"] = "agreed"

    def __post_init__(self) -> None:
        for name, least in (("iterations", 0), ("first", 1), ("pairs", 1), ("neighbours", 1)):
            if getattr(self, name) < least:
                raise UserError(f"stage1.{name} must be at least {least}, not {getattr(self, name)}")


@dataclass(frozen=True)
class Stage2:
    """The pass over everything without people.

    Args:
        rule: which pairs are kept, turned round or left out.
        annotate: whether annotators are asked about the pairs that the best model is not sure of.
        gold_model: keys of `reward_model.config` with other values for the gold model, such as {"run.epochs": 2}.
    """

    rule: Rule = field(default_factory=Rule)
    annotate: bool = True
    gold_model: dict[str, Any] | None = None


@dataclass(frozen=True)
class Measure:
    """What the stages are measured by.

    Args:
        held_out: files of comparisons with labels to trust; preprocess.held_out must name them too, so that none of their
            prompts is trained on.
        benchmarks: benchmarks by name, or all.
        data: folder of the benchmarks' files; null: from the Hub.
        stages: `last`: stage 2 alone; `all`: every iteration of stage 1 too, three models for each.
    """

    held_out: list[str]
    benchmarks: list[str] | None = None
    data: str | None = None
    stages: Literal["last", "all"] = "last"

    def __post_init__(self) -> None:
        if not self.held_out and not self.benchmarks:
            raise UserError("measure.held_out and measure.benchmarks are empty: give files, or benchmarks")


@dataclass(frozen=True)
class CurateConfig:
    """Everything `skyrm curate` reads.

    Args:
        out: folder of the curation; what it holds is not made again.
        reward_model: how reward models are trained.
        preprocess: the pairs to curate.
        annotators: language models that are asked for preferences and attributes. Without any, labels that no person has
            verified are judged by reward models alone.
        budget: USD that all calls to annotators may cost; null: no limit.
        attributes: how preference attributes are asked for; null: they are not.
        judge: how annotators are asked for preferences.
        votes: how their votes become a verdict.
        humans: what people verify in each iteration; null: nothing, and there is no gold model.
        enough: share of a batch that people must have answered before the curation goes on; the rest stays unverified.
        embedder: what finds similar pairs.
        stage1: the loop.
        stage2: the pass over everything.
        measure: what the stages are measured by; null: they are not.
        engine: where dataframes run.
        seed: of draws and orders.
    """

    out: str
    reward_model: RewardModel
    preprocess: Preprocess = field(default_factory=Preprocess)
    annotators: list[Annotator] = field(default_factory=list)
    budget: float | None = None
    attributes: AttributeOptions | None = field(default_factory=AttributeOptions)
    judge: JudgeOptions = field(default_factory=JudgeOptions)
    votes: VoteOptions = field(default_factory=VoteOptions)
    humans: HumanQueue | None = field(default_factory=HumanQueue)
    enough: float = 1.0
    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    stage1: Stage1 = field(default_factory=Stage1)
    stage2: Stage2 = field(default_factory=Stage2)
    measure: Measure | None = None
    engine: Engine = field(default_factory=Engine)
    seed: int = 0

    def __post_init__(self) -> None:
        rule, measure, raw = self.stage2.rule, self.measure, self.preprocess
        unguarded = [file for file in measure.held_out if file not in raw.held_out] if measure else []
        for bad, message in [
            (
                bool(unguarded),
                f"measure.held_out names {', '.join(unguarded)}, whose prompts may be trained on: name it in preprocess.held_out too",
            ),
            (
                bool(measure and measure.benchmarks and raw.benchmarks is None),
                "measure.benchmarks is given, but preprocess.benchmarks is not, so that their prompts may be trained on: give "
                "it the benchmarks' folder",
            ),
            (not self.out or "://" in self.out, "out must be a local folder, or one that all machines see"),
            (not 0 < self.enough <= 1, f"enough must be a share above 0, to 1; it is {self.enough}"),
            (self.seed < 0, f"seed must be at least 0, not {self.seed}"),
            (
                self.humans is None and rule.needs_gold,
                f"stage2.rule.keep {rule.keep} needs a gold model, which is trained on what people verify: give humans, or "
                "set it to best_or_annotators",
            ),
            (
                not self.annotators and self.stage1.iterations > 0,
                "stage1 trains on pairs that annotators agree with: give annotators, or set stage1.iterations to 0",
            ),
        ]:
            if bad:
                raise UserError(message)

    @property
    def gold_model(self) -> RewardModel:
        """How the gold model is trained."""
        return self.reward_model.of("stage2.gold_model", self.stage2.gold_model)

    def as_dict(self) -> dict[str, Any]:
        """Plain nested values."""
        return asdict(self)


def parse_curate_config(argv: Sequence[str]) -> CurateConfig:
    """CurateConfig from `--config FILE` and overrides such as `--stage1.iterations 4`; unknown keys are errors.

    `--engine ray` is short for `--engine.kind ray`.

    Raises UserError as `ConfigParser.read` does.
    """
    parser = ConfigParser(
        prog="skyrm curate STEP",
        usage="skyrm curate STEP --config FILE [--section.key VALUE ...]",
        description="Curate preference pairs with people and models.",
    )
    parser.add_config(CurateConfig)
    short = {"--engine": "--engine.kind"}
    read = parser.read(
        [short.get(argument, argument) for argument in argv],
        ("reward_model", "preprocess", "judge", "votes", "embedder", "stage1", "stage2", "engine"),
    )
    return CurateConfig(**{section.name: read[section.name] for section in fields(CurateConfig)})
