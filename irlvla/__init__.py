"""irlvla: end-to-end driving with a vision-language-action policy, a reward world model and PPO.

A driving scene travels through the packages in this order::

    data -> simulation -> scoring -> world -> model -> stages -> evaluation -> cli

Source: Jiang et al., "IRL-VLA", arXiv 2508.06571 (abstract and framework figure).
"""

__version__ = "0.1.0"
