"""Reinforcement learning: answers that the policy samples, the rewards that score them, environments that reply.

answers       what rewards see: N prompts with K answers each, as text and as tokens
engines       what draws the answers: the policy itself, or a plugin's engine
environments  where environments run: a process beside the run's, with a limit on every reply
episodes      a policy and its environments, turn by turn
turns         what an environment looks like
objective     the common part of objectives that sample
rewards       a weighted list of reward plugins, checked
rollout       prompts in, answers with their log-probabilities and rewards out
"""
