"""The three training stages: imitation, the reward world model, PPO. Each is one file, read from top to bottom."""
