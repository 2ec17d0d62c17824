"""The local backend: a fork server on this machine, isolated by what its kernel offers.

Trusted side: `client` (the sandbox), `forks` (snapshots and branches), `live` (cells), `process`, `family` (handles),
`probe`, `cgroup`, `runfolder`, `config`. Sandboxed side: `zygote`, `guard`, `agent`, `cell`, `figures`, `folders`,
`apart`, `hugepages`.
Layers: `confine`, `namespaces`, `landlock`, `seccomp`, `syscalls`. Both sides: `wire`, `processes`.
"""
