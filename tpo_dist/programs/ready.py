"""What a run needs beyond a configuration that makes sense; asked before anything starts."""

from tpo_dist.config import RunConfig
from tpo_dist.errors import UsageError
from tpo_dist.policies import TextPolicyOptions
from tpo_dist.programs.parts import generation_of, make_task, policy_options, sampler_options
from tpo_dist.programs.sinks import refuse_unready_sinks
from tpo_dist.rollout.generation import TextSampling


def refuse_local(config: RunConfig) -> None:
    """Raise UsageError for what a run in one process cannot do."""
    if config.weights.transport == "collective":
        reason = "--local trains and samples in one process, which has nothing to send"
        raise UsageError("weights.transport = 'collective'", reason, "drop one of the two")


def refuse_unready(config: RunConfig, *, here: bool) -> None:
    """Raise UsageError where a sink's package or key is missing; where the model has no weights or other layers than
    named, the sampler cannot sample groups of this size, or its package is not installed. It loads no weights, and
    starts nothing.

    `here`: whether this machine samples; the package is not asked for where another one does.
    """
    refuse_unready_sinks(config.log.sinks)
    policy, sampler = policy_options(config), sampler_options(config)
    if not isinstance(policy, TextPolicyOptions):
        return
    assert isinstance(sampler, TextSampling), "resolve() refuses others"
    sampler.check(generation_of(config, make_task(config)), config.rollout.group_size)
    policy.check()
    if here:
        sampler.require_package(config.rollout.device)
