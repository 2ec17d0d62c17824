"""What helps against an error of the engine or of a container's start: an option, a group, a variable, a command.

Told by the words of the error, since the engine gives no codes. Raising is left to `engine` and `client`.
"""

import grp
import os
import re

_SOCKET = "/var/run/docker.sock"
_HOSTS = "unix:///PATH, tcp://HOST:PORT or ssh://USER@HOST"

# The first line whose words are found counts: what is narrow stands above what is wide.
_ADVICE = (
    # reaching an engine
    (r"Install paramiko", "Addresses with ssh:// need paramiko: pip install 'docker[ssh]'"),
    (
        r"paramiko|known_hosts|authentication (failed|methods)|private key",
        "`ssh USER@HOST docker version` must work without a question: add the host to ~/.ssh/known_hosts and the key "
        "to an agent (ssh-add)",
    ),
    (r"Invalid bind address|could not be cast to integer|Port out of range", f"DOCKER_HOST must be {_HOSTS}"),
    (
        r"TLS|SSL|certificate|HTTP request to an HTTPS server",
        "Set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH to the folder of ca.pem, cert.pem and key.pem, as the engine "
        "wants",
    ),
    (
        r"client version .* is too (old|new)|API versions? below",
        "Engine and client are too far apart: pip install -U docker",
    ),
    (r"timed out", "The engine hangs or is overloaded: restart it, or set DOCKER_HOST to another"),
    (r"Name or service not known|name resolution", "No such host: set DOCKER_HOST to an engine's address"),
    # making and starting a container
    (r"exec: .*(not found|no such file)", "image must hold the interpreter that python names: set either"),
    (r"Python 3\.\d+ or newer", "Set image to one that has it, or python to another interpreter in it"),
    (r"CPUs", "Set num_cpus to what the engine's machine has, or leave it out"),
    (
        r"no space left on device|Errno 28",
        "The engine's disk is full, or total_memory_bytes too small for the files",
    ),
    (
        r"can't start new thread|resource temporarily unavailable|Errno 11|pids",
        "Raise total_processes",
    ),
    (
        r"memory limit|allocate memory|MemoryError|Errno 12|OOM|out of memory|the container ended$",
        "Raise total_memory_bytes, or preload less: it may have been too little memory",
    ),
    (r"did not answer within|no answer in time", "Raise start_timeout_s, or preload less"),
    (r"preloaded packages", "Leave the one that starts threads out of preload"),
    (r"seccomp|apparmor|masked|mount", 'Set profile to "default", which asks nothing special of the engine'),
)


def advice(error: str) -> str:
    """The sentence that goes with the words of an error; "" for words that are unknown here."""
    if re.search("permission denied", error, re.IGNORECASE) and not re.search("publickey|ssh|exec", error):
        return (
            f"Join the group of the engine's socket (sudo usermod -aG {socket_group()} $USER, then log in anew), or "
            "set DOCKER_HOST to an engine of your own."
        )
    for words, sentence in _ADVICE:
        if re.search(words, error, re.IGNORECASE):
            return sentence + "."
    return ""


def socket_group() -> str:
    """The group that may use the engine's socket; "docker", as installers call it, where that is unknown."""
    path = os.environ.get("DOCKER_HOST", "").removeprefix("unix://") or _SOCKET
    try:
        group = grp.getgrgid(os.stat(path).st_gid).gr_name
    except (OSError, KeyError):
        return "docker"
    return "docker" if group == "root" else group
