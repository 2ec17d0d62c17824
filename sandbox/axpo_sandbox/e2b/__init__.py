"""The e2b backend: a virtual machine per session, in E2B's cloud or a cluster that speaks its API.

Trusted side: `client` (the sandbox), `live` and `replies` (cells), `machine` (the only one to know the SDK), `cloud`
(the control plane), `rules` (which answers pass, and how long to wait), `keeper` (machines and snapshots to be kept
alive and ended), `package` (what is brought into a machine), `probe`, `reaper`, `owner`, `config`. Inside the machine:
`runner`.
"""
