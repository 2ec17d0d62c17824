"""The environments inside other trainers: one thin module each.

`trl` (TRL 1.16), `verl` (0.9) and `verifiers_legacy` (verifiers 0.3). The rules of an episode stay in `axpo_env`; an
adapter moves text and images between them and the trainer, and knows the trainer's shapes.
"""
