#!/usr/bin/env python3
"""A service in Python: counts the words of what it is sent, to the end of input."""
import sys

text = sys.stdin.buffer.read()
print(len(text.split()), "words,", len(text), "bytes")
