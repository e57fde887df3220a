"""Run the app of examples/federated_app as a real federation on this machine: TLS, signed nodes, one process each.

    python examples/federated_deployment.py [--clients 3] [--rounds 2] [--folder FOLDER]

It makes a certificate authority, a certificate for 127.0.0.1 and a key for each client, starts a SuperLink and the
SuperNodes, registers them, runs the app, and shows the log of the server with the bytes that Flower itself counted.
Nothing leaves the machine: telemetry, update checks and installation at run time are switched off.
"""

import argparse
import contextlib
import datetime
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

APP = Path(__file__).parent / "federated_app"
BIN = Path(sys.executable).parent
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "OMP_NUM_THREADS": "1",
}
PEM, NO_PASSWORD = serialization.Encoding.PEM, serialization.NoEncryption()


def pem_of(key):
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, NO_PASSWORD)


def certificate(subject, key, issuer, signing_key, *, authority):
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signing_key, hashes.SHA256())


def make_certificates(folder):
    """Write ca.pem, server.pem and server.key."""
    name = {n: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in ("authority", "superlink")}
    ca_key, key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    ca = certificate(name["authority"], ca_key, name["authority"], ca_key, authority=True)
    server = certificate(name["superlink"], key, name["authority"], ca_key, authority=False)
    (folder / "ca.pem").write_bytes(ca.public_bytes(PEM))
    (folder / "server.pem").write_bytes(server.public_bytes(PEM))
    (folder / "server.key").write_bytes(pem_of(key))


def make_node_key(folder, i):
    """Write node-I.key and node-I.pub."""
    key = ec.generate_private_key(ec.SECP384R1())
    openssh = serialization.PrivateFormat.OpenSSH
    path = folder / f"node-{i}.key"
    path.write_bytes(key.private_bytes(PEM, openssh, NO_PASSWORD))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public)
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def flwr(folder, environment, *words, timeout=120):
    """Run the command line of Flower; return what it prints."""
    done = subprocess.run(
        [BIN / "flwr", *words], env=environment, capture_output=True, text=True, timeout=timeout, cwd=folder
    )
    if done.returncode:
        sys.exit(f"flwr {' '.join(map(str, words))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_for(port, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    sys.exit(f"nothing listens on port {port} after {seconds} s")


def stop(process):
    """End a process, and its children that are still at work."""
    process.terminate()
    process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run(folder, source, clients, settings, paths=(), seconds=600):
    """Start all processes, run the app in the folder `source`, stop them, and return what Flower counted."""
    environment = {**os.environ, **QUIET, "FLWR_HOME": str(folder / "flwr")}
    found = os.environ.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, paths), *([found] if found else [])])
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    make_certificates(folder)
    port = free_port()
    address = f"127.0.0.1:{port}"
    (folder / "flwr").mkdir()
    (folder / "flwr" / "config.toml").write_text(
        f'[superlink.here]\naddress = "{address}"\nroot-certificates = "{folder / "ca.pem"}"\n'
    )
    with contextlib.ExitStack() as stack:

        def start(name, *words):
            log = stack.enter_context((folder / f"{name}.log").open("w"))
            process = subprocess.Popen(
                words, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True
            )
            stack.callback(stop, process)

        start(
            "superlink",
            *(BIN / "flower-superlink", "--host", "127.0.0.1", "--port", str(port)),
            *("--ssl-ca-certfile", folder / "ca.pem", "--ssl-certfile", folder / "server.pem"),
            *("--ssl-keyfile", folder / "server.key", "--enable-supernode-auth"),
            *("--database", folder / "state.db", "--disable-runtime-dependency-installation"),
        )
        wait_for(port)
        for i in range(clients):
            key = make_node_key(folder, i)
            flwr(folder, environment, "supernode", "register", key.with_suffix(".pub"), "here")
            start(
                f"node-{i}",
                *(BIN / "flower-supernode", "--superlink", address, "--port", str(free_port())),
                *("--root-certificates", folder / "ca.pem", "--auth-supernode-private-key", key),
                *("--node-config", f"partition-id={i} num-partitions={clients}"),
            )
        app = folder / "app"
        app.mkdir()
        for file in source.iterdir():
            if file.is_file():
                (app / file.name).write_bytes(file.read_bytes())
        log = flwr(folder, environment, "run", app, "here", "-c", settings, "--stream", timeout=seconds)
        runs = json.loads(flwr(folder, environment, "list", "here", "--format", "json"))
        return log, runs["runs"][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keeps keys, logs and the state of the rounds")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
        settings = f'num-rounds={asked.rounds} out="{folder / "out"}" min-nodes={asked.clients}'
        log, counted = run(folder, APP, asked.clients, settings)
        print(log)
        print(json.dumps(counted, indent=2))


if __name__ == "__main__":
    main()
