"""The docker backend: the local backend's fork server inside a container, spoken to over one stream.

On the host: `client` (the sandbox), `remote` (handles of what runs inside), `link` (requests and answers),
`container` and `engine` (Docker), `profiles` (what a container may do), `probe`, `reaper` (containers that
owners left), `durable` (snapshots as images), `image` (making the image), `config`, `advice` (what helps against
an error). In the container: `relay`, brought there by `bundle`. Both sides: `frames`, `failures`.
"""
