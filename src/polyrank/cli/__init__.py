"""The command line: parse, call one function, print.

One file per command. A new one is its file and its line in `app.py`.
"""
