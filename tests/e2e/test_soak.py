"""The soak's run of changes, short: `make soak SOAK='--changes 20'` is the whole form, and says more."""
import os
import pathlib
import subprocess

SOAK = pathlib.Path(__file__).parent.parent / "soak/soak.py"


def test_reloads_moves_and_an_upgrade_lose_nobody_of_any_service(hark):
    ran = subprocess.run(
        [SOAK, "--changes", "2"],
        env={**os.environ, "HARK_BUILD": os.path.dirname(hark)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.endswith("22 passed, 0 failed\n"), ran.stdout
