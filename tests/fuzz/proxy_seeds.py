#!/usr/bin/python3
"""proxy_seeds.py DIR — the vectors of the PROXY protocol as seeds for fuzz_proxy, a file each."""
import base64
import json
import pathlib
import sys

to = pathlib.Path(sys.argv[1])
to.mkdir(parents=True, exist_ok=True)
for case in json.loads((pathlib.Path(__file__).parent.parent / 'vectors/proxy.json').read_text()):
    (to / case['id']).write_bytes(base64.b64decode(case['raw_b64']))
