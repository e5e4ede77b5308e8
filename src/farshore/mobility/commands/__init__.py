"""What the configuration server asks of this machine: heard of over a stream, carried out once, answered.

``fetching`` hears, ``handling`` carries out and answers, ``record`` remembers over a restart what was begun.
"""
