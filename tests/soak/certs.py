"""Certificates of a soak, made by openssl(1)."""
import itertools
import os
import subprocess

serials = itertools.count(1)


def make(directory, name, dns=None, by=None):
    """name.pem and name.key, for a month: a server's, by an authority or by itself, or an authority's. Returns (path
    without suffix, serial number)."""
    path, serial = os.path.join(directory, name), next(serials)
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    argv += ["-subj", f"/CN={name}", "-set_serial", str(serial), "-keyout", f"{path}.key", "-out", f"{path}.pem"]
    argv += ["-addext", f"subjectAltName=DNS:{dns}"] if dns else []
    argv += ["-addext", "basicConstraints=CA:FALSE", "-CA", f"{by}.pem", "-CAkey", f"{by}.key"] if by else []
    subprocess.run(argv, check=True, capture_output=True)
    return path, serial


def install(path, live):
    """Puts a pair in the place of live.pem and live.key, each by rename(2), as certbot does."""
    for suffix in (".key", ".pem"):
        os.rename(path + suffix, live + suffix)
