"""The local backend: a fork server on this machine, isolated by what its kernel offers.

`client` is the trusted side; `zygote`, `agent` and `cell` run in the sandboxed processes; `isolation`,
`seccomp` and `landlock` are the layers; `wire` is what the two sides speak.
"""
