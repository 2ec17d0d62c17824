"""The environments inside other trainers: one thin module each.

`trl` (TRL 1.16), `verl` (0.9), `verifiers` (0.4, its v1 interface) and `verifiers_legacy` (0.3, its `MultiTurnEnv`).
The rules of an episode stay in `axpo_env`; an adapter moves text and images between them and the trainer, and knows
the trainer's shapes.
"""
