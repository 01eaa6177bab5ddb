"""Reinforcement learning: the policy samples answers, environments reply to them, rewards score them.

online_objective   the base class of objectives that learn from sampled answers
reward, rewards    the contract of a reward; a weighted list of rewards, with checked scores
environment        the contract of an environment; environment_host runs it in a process of its own
engines            sampling by the policy itself, or by a plugin's engine
episodes           the policy and its environments, turn by turn
rollout            prompts in, answers with their log-probabilities and rewards out
feed               the training loop's source of such batches
"""
